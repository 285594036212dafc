"""Why two processes on two cores train less than twice as fast as one: where processor time goes.

    PYTHONPATH=. python benchmarks/two_processes.py

The training of benchmarks/processes.py, with data workers. Each number of processes trains one and
four epochs; the difference is free of what a start takes. Processor time is that of the training
processes and of their workers, so that it hardly depends on what else the machine does. With t
seconds of training and w of its workers for an image, one process on two cores takes max(t, w / 2),
and two take (t' + w') / 2 at best, t' and w' being theirs: the ratio is a bound on the speed-up.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.processes import ENVIRONMENT, ROOT, training_command
from convzoo.environment import command_line, provenance
from convzoo.files import write_json

IMAGES = 12_000  # of an epoch
WORKERS = {1: 2, 2: 1}  # of each process: as many in all


def main() -> None:
    """Train with one and two processes in turns and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/two_processes_2cpu_202611.json")
    args = parser.parse_args()
    rounds = []
    for _ in range(args.rounds):
        row = {"load_average_before": round(os.getloadavg()[0], 1)}
        for processes in WORKERS:
            once, more = (train(processes, epochs) for epochs in (1, 4))
            for part in ("training", "workers"):
                milliseconds = 1000 * (more[part] - once[part]) / (3 * IMAGES)
                row[f"{part}_of_{processes}"] = round(milliseconds, 4)
        one = max(row["training_of_1"], row["workers_of_1"] / WORKERS[1])
        row["bound"] = round(2 * one / (row["training_of_2"] + row["workers_of_2"]), 3)
        rounds.append(row)
        print(row, flush=True)
    write_json(
        ROOT / args.output,
        {
            "what": "milliseconds of processor time for an image, of the training processes and of "
            "their workers, with 1 and 2 processes; and the bound of the speed-up on two cores",
            **provenance(command_line("PYTHONPATH=. python benchmarks/two_processes.py")),
            "workers_of_a_process": WORKERS,
            "n": args.rounds,
            "median_and_range": {
                key: [
                    choose(row[key] for row in rounds) for choose in (statistics.median, min, max)
                ]
                for key in rounds[0]
            },
            "rounds": rounds,
        },
    )


def train(processes: int, epochs: int) -> dict[str, float]:
    """Train in processes of its own; returns processor seconds of these and of their workers."""
    settings = [f"data.num_workers={WORKERS[processes]}", f"train.epochs={epochs}"]
    with tempfile.TemporaryDirectory() as folder:
        command = training_command(
            processes, Path(folder), *settings, "train.checkpoint_every_epochs=0"
        )
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        used: dict[int, tuple[str, float]] = {}  # of each process: its part and seconds so far
        while process.poll() is None:
            look(psutil.Process(process.pid), used)
            time.sleep(0.1)
        assert process.returncode == 0, command
    return {
        part: sum(seconds for kind, seconds in used.values() if kind == part)
        for part in ("training", "workers")
    }


def look(launcher: psutil.Process, used: dict[int, tuple[str, float]]) -> None:
    """Note the processor time of each training process and worker so far."""
    try:
        for trainer in launcher.children():
            for process, part in (
                (trainer, "training"),
                *((w, "workers") for w in trainer.children()),
            ):
                times = process.cpu_times()
                used[process.pid] = (part, times.user + times.system)
    except psutil.NoSuchProcess:
        pass  # it ended just now


if __name__ == "__main__":
    main()
