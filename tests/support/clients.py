"""Programs that a test starts: this Python as a user, as a stranger and under the launcher."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.support.warm_start import Warm

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
    return _judged(done, check)


def _judged(done, check):
    if check and done.returncode:
        words, said = done.args, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise AssertionError(f"{words} failed:\n{said}")
    return done


@cache
def _warm():
    return Warm(os.environ | ENVIRONMENT)


def run_warm(*arguments, cwd=ROOT, check=True, processes=1, **environment):
    """Run a command of ours as `run` does, but forked from where the libraries are loaded."""
    environment = os.environ | ENVIRONMENT | environment
    return _judged(
        _warm().run(*arguments, cwd=cwd, environment=environment, processes=processes), check
    )


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


def train(recipe, *overrides, processes=1, fresh=False, **options):
    """Train by a recipe; options are those of `run`.

    Args:
        recipe: path of the recipe.
        overrides: of its settings.
        processes: how many train together.
        fresh: start Python afresh, several processes by `accelerate launch`; see warm_start.py.
        options: those of `run`, and of `run_warm` where nothing must be fresh.
    """
    script = (ROOT / "train_accelerate.py", recipe, *overrides)
    if not fresh:
        return run_warm(*script, processes=processes, **options)
    return run(*(launch_arguments(processes, *script) if processes > 1 else script), **options)


# A client that does what it is told on standard input, one JSON object a line: calls `act`.
ANSWERING = """
import dataclasses, json, logging, os, sys
from hub_cards.hub.push_errors import PushError
from hub_cards.hub.pushing import PushOptions

logging.basicConfig(stream=sys.stderr, level=logging.INFO)
for line in sys.stdin:
    arguments = json.loads(line)
    token = arguments.pop("token")
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        answer = dataclasses.asdict(act(**arguments)) | {"reason": None}
    except PushError as error:
        answer = {"reason": error.reason, "exit_code": error.exit_code, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


@contextmanager
def answering_client(code, home, environment):
    """A client of the Hub that lives as long as the block; all it ever said must hold no token.

    Yields a function that calls `act`, which the code defines, and returns its answer.
    """
    answers = []
    with (home / "stderr").open("w") as said:
        client = subprocess.Popen(
            [sys.executable, "-c", code + ANSWERING],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )

        def ask(**told):
            client.stdin.write(json.dumps(told) + "\n")
            client.stdin.flush()
            answers.append(client.stdout.readline())
            return json.loads(answers[-1])

        yield ask
        client.communicate()
    assert "Secret" not in (home / "stderr").read_text() + "".join(answers)
    assert not (home / "outside").exists()


@contextmanager
def paths_without_spaces():
    """Options of `run` by which this Python and PyTorch's compiler see no path with spaces."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        link = Path(folder, "environment")
        link.symlink_to(sys.prefix)
        python = link / "bin" / Path(sys.executable).name
        yield {"python": str(python), "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
