"""Programs that a test starts: this Python as a user, as a stranger and under the launcher."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "ACCELERATE_USE_CPU": "true",
}


def run(*arguments, cwd=ROOT, check=True, python=sys.executable, **environment):
    """Run this Python with arguments, as a user would; its output is shown when it fails."""
    done = subprocess.run(
        [python, *(str(argument) for argument in arguments)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and done.returncode:
        raise AssertionError(f"{arguments} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


# Leaves a Python with its libraries but without our packages, even where they are installed
# editable: -S skips the site module, which would process the .pth file of an editable install.
STRANGER = f"""
import importlib.util, sys
sys.path.append({sysconfig.get_path("purelib")!r})
for package in ("modeling", "convzoo", "hub_cards"):
    assert importlib.util.find_spec(package) is None, package
"""


def run_as_stranger(code, *arguments, folder):
    """Run code in `folder` as somebody who never saw this repository, without a network."""
    home = {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STRANGER + code, *(str(part) for part in arguments)],
        cwd=folder,
        stdin=subprocess.DEVNULL,  # nobody answers a question whether to trust the code
        env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def launch_arguments(processes, *script):
    """Python's arguments for `accelerate launch` on CPU; its --cpu would start one process only."""
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
    launcher = ["-m", "accelerate.commands.launch", "-q", "--num_processes", str(processes)]
    return [*launcher, *plain, *several, *(str(part) for part in script)]


def train(recipe, *overrides, processes=1, **options):
    """`accelerate launch train_accelerate.py RECIPE OVERRIDES`; options are those of `run`."""
    script = (ROOT / "train_accelerate.py", recipe, *overrides)
    return run(*launch_arguments(processes, *script), **options)


@contextmanager
def paths_without_spaces():
    """Options of `run` by which this Python and PyTorch's compiler see no path with spaces."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        link = Path(folder, "environment")
        link.symlink_to(sys.prefix)
        python = link / "bin" / Path(sys.executable).name
        yield {"python": str(python), "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
