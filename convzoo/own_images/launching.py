"""Start a training of a recipe through Accelerate, and wait for its end."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import convzoo

SCRIPT = Path(convzoo.__file__).parents[1] / "train_accelerate.py"


def shown_command(recipe: Path) -> str:
    """Return what a person types, where they are, to train with a recipe."""
    script = SCRIPT.name if Path(SCRIPT.name).exists() else str(SCRIPT)
    return f"accelerate launch -q {shlex.quote(script)} {shlex.quote(str(recipe))}"


def launch_command(recipe: Path, processes: int) -> list[str]:
    """Return what starts the training of a recipe on this machine.

    One process needs no launcher, which would meet Ctrl-C with a traceback of its own. What
    `accelerate config` says is not asked: the recipe says all, and a fresh machine has none.

    Raises:
        FileNotFoundError: if train_accelerate.py is not where the project has it.
    """
    if not SCRIPT.is_file():
        raise FileNotFoundError(
            f"convzoo must be installed from its repository (pip install -e '.[train]') to train; "
            f"{SCRIPT} is not there. The recipe is {recipe}"
        )
    training = [str(SCRIPT), str(recipe)]
    if processes == 1:
        return [sys.executable, *training]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "-q", "--multi_gpu"),
        *("--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", *training),
    ]


def start_training(
    recipe: Path,
    processes: int,
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the training of a recipe; it ends with this process, whatever ends that.

    Args:
        recipe: its path.
        processes: of the training.
        environment: what it finds in its environment besides.
        output: where it writes; by default where this process writes.

    Raises:
        FileNotFoundError: as `launch_command`.
    """
    import torch

    # As the launcher sets it, which is why the training watches its parent.
    variables = os.environ | {"ACCELERATE_MIXED_PRECISION": "no"} | dict(environment or {})
    if not torch.cuda.is_available() and processes > 1:
        variables["ACCELERATE_USE_CPU"] = "true"
    command = launch_command(recipe, processes)
    return subprocess.Popen(command, env=variables, stdout=output, stderr=output)


def launch(recipe: Path, processes: int) -> int:
    """Train; returns the exit status. Signals that this process gets reach the training, too.

    Raises:
        FileNotFoundError: as `launch_command`.
    """
    with start_training(recipe, processes) as process:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the training got it, too, and saves a checkpoint
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)
