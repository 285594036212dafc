"""The launch configurations in recipes/accelerate, with accelerate's own loader and launcher."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from convzoo.training.metrics_log import read_metrics
from tests.support.clients import ENVIRONMENT, ROOT, run

FOLDER = ROOT / "recipes" / "accelerate"
SIZES = {"1gpu": (1, 1), "8gpu": (1, 8), "2x8gpu": (2, 16), "2cpu": (1, 2)}
LAUNCH = ("-m", "accelerate.commands.launch")

# Sums 10 to the power of the rank over all processes.
COUNTS = """
import sys
import torch
from accelerate import Accelerator

state = Accelerator()
total = state.reduce(torch.tensor(10.0) ** state.process_index, "sum").item()
words = (state.process_index, state.num_processes, state.device.type, state.state.backend, total)
sys.stdout.write(" ".join(map(str, words)) + chr(10))  # one write: lines must not mix
state.end_training()  # a process that ends with its group open may abort
"""
BOTH = ["0 2 cpu gloo 11.0", "1 2 cpu gloo 11.0"]


def test_every_file_is_tried_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_accelerate_reads_the_file_and_knows_every_key(name):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # an unknown key raises
    assert (config.num_machines, config.num_processes) == SIZES[name]
    several = config.num_processes > 1
    assert config.distributed_type.value == ("MULTI_GPU" if several else "NO")
    assert config.use_cpu == (name == "2cpu")
    values = yaml.safe_load(path.read_text())
    assert all(getattr(config, key) == value for key, value in values.items())


@pytest.mark.parametrize("name", SIZES)
def test_the_command_in_the_file_is_about_the_file(name):
    comment = re.sub(r"\\?\n# +", " ", (FOLDER / f"{name}.yaml").read_text())
    command = f"accelerate launch --config_file recipes/accelerate/{name}.yaml"
    assert command in comment and "train_accelerate.py RECIPE" in comment


@pytest.fixture
def counter(tmp_path):
    path = tmp_path / "count.py"
    path.write_text(COUNTS)
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_the_cpu_file_starts_two_processes_that_talk(counter):
    done = run(*LAUNCH, "--config_file", FOLDER / "2cpu.yaml", counter)
    assert sorted(line for line in done.stdout.splitlines() if "gloo" in line) == BOTH


def test_two_machines_talk_when_each_has_its_rank(counter):
    """One process on each, as `--num_processes` counts those of all machines."""
    launch = [*LAUNCH, "--config_file", FOLDER / "2x8gpu.yaml", "--num_processes", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", free_port()]
    with ThreadPoolExecutor(2) as pool:
        machines = pool.map(lambda rank: run(*launch, "--machine_rank", rank, counter), (0, 1))
        printed = [done.stdout.split("\n")[0] for done in machines]
    assert printed == BOTH


# A Slurm job on two machines, which are this one. Slurm is played by two scripts: `srun` starts the
# task of each machine and passes SIGTERM on to every process of it, as Slurm's does, and `scontrol`
# notes what it is told.

SRUN = """
import os, signal, subprocess, sys
import psutil

def tell(number, frame):
    for process in psutil.Process().children(recursive=True):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass

command = sys.argv[2:]  # after --kill-on-bad-exit=1
tasks = [subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": rank}) for rank in "01"]
signal.signal(signal.SIGTERM, tell)
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/bash
[ "$1 $2" = "show hostnames" ] && echo 127.0.0.1 || echo "$@" >> "$NOTES"
"""


@pytest.mark.slow
def test_a_slurm_job_goes_back_into_the_queue_and_finishes(tiny_recipe, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "srun.py").write_text(SRUN)
    python = f'#!/bin/bash\nexec "{sys.executable}"'  # a shebang of its own must have no spaces
    accelerate = f'{python} {" ".join(LAUNCH)} "${{@:2}}"\n'
    srun = f'{python} "{commands}/srun.py" "$@"\n'
    for name, text in (("srun", srun), ("scontrol", SCONTROL), ("accelerate", accelerate)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    environment = os.environ | ENVIRONMENT
    environment |= {"PATH": f"{commands}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    environment |= {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "n[1-2]"}
    environment["SLURM_JOB_ID"] = str(random.randrange(10_000))  # decides the port
    settings = [f"run.output_dir={tmp_path}", "train.epochs=40", "run.name=job"]
    job = ["bash", FOLDER / "slurm.sh", tiny_recipe, *settings]
    keywords = {"cwd": ROOT, "env": environment, "stderr": subprocess.STDOUT}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(job, stdout=log, **keywords)
    metrics = tmp_path / "job" / "metrics.jsonl"
    while first.poll() is None and len(read_metrics(metrics)) < 20:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143, (tmp_path / "log").read_text()
    assert (tmp_path / "notes").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    saved = (tmp_path / "job" / "checkpoints").glob("step_*")
    reached = max(int(path.name.removeprefix("step_")) for path in saved)
    lines = [line["step"] for line in read_metrics(metrics) if "loss" in line]
    assert 0 < reached == lines[-1]  # saved when told to, not at the end of an epoch

    second = subprocess.run(job, stdout=subprocess.PIPE, **keywords, timeout=300)
    assert second.returncode == 0, second.stdout.decode()
    results = json.loads((tmp_path / "job" / "model" / "train_results.json").read_text())
    assert results["num_processes"] == 2
    steps = [line["step"] for line in read_metrics(metrics) if "loss" in line]
    assert steps == list(range(1, results["optimizer_steps"] + 1))
    assert (tmp_path / "notes").read_text().count("requeue") == 1

    failing = [*job[:2], tiny_recipe, "train.epochs=none"]
    failed = subprocess.run(failing, stdout=subprocess.PIPE, **keywords, timeout=100)
    assert failed.returncode == 1 and b"epochs in" in failed.stdout
    assert (tmp_path / "notes").read_text().count("requeue") == 1
