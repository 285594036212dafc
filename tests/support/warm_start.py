"""Commands of ours in processes that are forked from one in which the libraries are loaded.

Nearly all of the four seconds of processor time that a short command takes are imports. A `Warm`
process imports once and then forks for each command. Such a command is a process as any other, with
its own folder, variables, standard streams and exit status. Two things it has not for itself, so
tests of them start Python afresh (`run` and `train(..., fresh=True)` in clients.py): what importing
does (variables that libraries read then, lazy imports, Ctrl-C meanwhile), and the seed of Python's
hashes, on which results that must repeat in another process may depend.
"""

import atexit
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

SECONDS = 600  # that a command may take
# What a program imports while it works, directly or by a library that is slow to load.
TRANSFORMERS = ("transformers.models.auto.modeling_auto", "transformers.pipelines")
LOADED = {
    "convzoo": ("convzoo.cli.program", "convzoo.evaluation.evaluating", "modeling", *TRANSFORMERS),
    "hub_cards": ("hub_cards.cli", "hub_cards.hub.pushing"),
    "verify": ("hub_cards.verify.verifying", "convzoo.evaluation.remeasuring"),
    "train_accelerate.py": ("train_accelerate", "modeling", *TRANSFORMERS),
}


class Warm:
    """A process that has loaded the libraries, and forks for each command.

    Args:
        environment: variables while importing; each command has all its variables anew.
    """

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def run(self, *arguments, cwd=None, environment, processes=1):
        """Run `-m convzoo ...`, `-m hub_cards ...` or a script with arguments, to its end.

        Several processes find each other as those of `torchrun` do; if one fails, all end.
        """
        words = [str(argument) for argument in arguments]
        with tempfile.TemporaryDirectory() as folder:
            streams = [f"{folder}/stdout", f"{folder}/stderr"]
            job = {"words": words, "streams": streams, "cwd": str(cwd or os.getcwd())}
            job["environments"] = [
                environment | ranks for ranks in (several(processes) if processes > 1 else [{}])
            ]
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], SECONDS)[0]:
                self._process.kill()
                raise TimeoutError(f"{arguments} took longer than {SECONDS} s")
            status = int(self._process.stdout.readline())
            said = [Path(stream).read_text(encoding="utf-8") for stream in streams]
        return subprocess.CompletedProcess(words, status, *said)

    def close(self):
        """End the process, which forks no more."""
        atexit.unregister(self.close)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def several(processes):
    """Variables of each of several processes on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [place | size | dict.fromkeys(("RANK", "LOCAL_RANK"), str(n)) for n in range(processes)]


def serve():
    """Fork for each line of standard input, and print the exit status when the command ended."""
    del sys.path[0]  # the folder of this file
    for line in sys.stdin:
        job = json.loads(line)
        names = [Path(word).name for word in job["words"][:3]]
        programs = [name for name in names if name in LOADED] or ["convzoo"]  # for other scripts
        for module in itertools.chain(*(LOADED[program] for program in programs)):
            importlib.import_module(module)
        gc.freeze()  # pages that a collection would write to are not shared
        children, status = set(), 0
        for environment in job.pop("environments"):
            child = os.fork()
            if not child:
                os._exit(become(**job, environment=environment))
            children.add(child)
        while children:
            child, how = os.wait()
            children.discard(child)
            if how and not status:
                status = os.waitstatus_to_exitcode(how)
                for other in children:
                    os.kill(other, signal.SIGTERM)
        print(status, flush=True)


def become(words, streams, *, environment, cwd):
    """Be the command from here on, in its place and with its streams; returns its exit status."""
    for number, stream in enumerate([os.devnull, *streams]):
        descriptor = os.open(stream, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    subprocess.run = functools.partial(run_or_fork, subprocess.run)
    return work(words, cwd)


def run_or_fork(run, command, **options):
    """Stand for `subprocess.run` in a command: the module that a verification runs is forked, too.

    Only the arguments that it has there are known.
    """
    if command[1:3] != ["-P", "-m"]:
        return run(command, **options)
    with tempfile.TemporaryFile("w+") as given:
        given.write(options["input"])
        given.seek(0)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(given.fileno(), 0)
            sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  it ends with the process
            os.environ.update(options["env"])
            del sys.path[0]  # -P: without the working directory
            atexit._clear()  # what this process would remove at its end is of the other
            os._exit(work(command[2:]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(command, status)


def work(words, cwd=None):
    """Run a module or script in this process; returns the exit status that it would have."""
    try:
        if words[0] == "-m":
            sys.path[:0] = [cwd] if cwd else []
            sys.argv = words[1:]
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(words[0]).parent))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # as Python does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve()
