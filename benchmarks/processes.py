"""The same training on 1, 2 and 4 CPU processes: are the losses the same, and how fast is it?

    python benchmarks/processes.py

A small AlexNet without dropout on the embedded Fashion-MNIST sample: without batch norm a step is
the same for any number of processes, up to the order of sums. One thread for each process; the
processes share the machine's cores, so more than those cannot be faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
OVERRIDES = [
    *(
        "model.model_type=alexnet",
        "model.hidden_sizes=[16, 32, 48, 32, 32]",
        "model.dropout_rate=0",
    ),
    *("model.classifier_hidden_size=64", "model.pooled_size=3", "run.name=run"),
    *("train.global_batch_size=128", "train.log_every_steps=1", "data.num_workers=0"),
    *("data.examples=0", "data.eval_split=", "optimizer.learning_rate=0.02"),
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
MODEL_OF_THE_RECIPE = (
    "embedding_size",
    "hidden_sizes",
    "depths",
    "bottleneck_expansion",
    "conv_bias",
)


def main() -> None:
    """Train with every number of processes and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3, help="runs with each number of processes")
    parser.add_argument("--output", default="benchmarks/results/processes_2cpu_202611.json")
    args = parser.parse_args()
    rounds = [
        [train(processes, args.epochs) for processes in args.processes] for _ in range(args.rounds)
    ]
    first = rounds[0][0]["losses"]
    rows = []
    for processes, runs in zip(args.processes, zip(*rounds, strict=True), strict=True):
        speeds = sorted(run["images_per_second"] for run in runs)
        differences = [
            [abs(a - b) / b for a, b in zip(run["losses"], first, strict=True)] for run in runs
        ]
        rows.append(
            {
                "processes": processes,
                "images_per_second": [statistics.median(speeds), speeds[0], speeds[-1]],
                "steps": len(first),
                "largest_relative_difference_of_a_loss_in_20_steps": max(
                    max(each[:20]) for each in differences
                ),
                "largest_relative_difference_of_a_loss": max(map(max, differences)),
            }
        )
        print(rows[-1], flush=True)
    write_json(
        ROOT / args.output,
        {
            "what": "losses and images per second, [median, least, most], of a training on several "
            "CPU processes; losses are rounded to 6 digits and compared with those of one process",
            **provenance(command_line("PYTHONPATH=. python benchmarks/processes.py")),
            "n": args.rounds,
            "rows": rows,
        },
    )


def train(processes: int, epochs: float) -> dict:
    """One run in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = training_command(processes, Path(folder), f"train.epochs={epochs}")
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | ENVIRONMENT)
        results = json.loads((Path(folder) / "run/model/train_results.json").read_text())
        log = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    assert results["num_processes"] == processes
    return {
        "images_per_second": results["images_per_second"],
        "losses": [line["loss"] for line in map(json.loads, log) if "loss" in line],
    }


def training_command(processes: int, folder: Path, *overrides: str) -> list[str]:
    """Write the recipe into a folder; returns the command that trains there."""
    launch = ["-m", "accelerate.commands.launch", "-q", "--num_processes", str(processes)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
    recipe = folder / "recipe.toml"
    lines = (ROOT / "recipes" / "quickstart.toml").read_text(encoding="utf-8").splitlines()
    recipe.write_text(
        "\n".join(line for line in lines if not line.startswith(MODEL_OF_THE_RECIPE)),
        encoding="utf-8",
    )
    settings = [*OVERRIDES, *overrides, f"run.output_dir={folder}"]
    return [sys.executable, *launch, "train_accelerate.py", str(recipe), *settings]


if __name__ == "__main__":
    main()
