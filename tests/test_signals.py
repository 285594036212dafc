import os
import signal
import subprocess
import sys

import pytest

from tests.support.clients import ENVIRONMENT, ROOT, run

if os.name == "nt":
    pytest.skip("Windows has no SIGTERM to catch", allow_module_level=True)

TRAINING = """
import time
from accelerate import Accelerator
from convzoo.signals import StopRequest

stop = StopRequest(Accelerator(cpu=True))
print("ready", flush=True)
for step in range(1, 6000):
    if stop.agreed(step) and step > 20:  # the step takes its time
        break
    time.sleep(0.01)
print("saved after", stop.signal)
"""

WORKER = """
import sys, time
from convzoo import signals

signals.WORKER_SECONDS = int(sys.argv[1])
signals.outlive_signals(0)
print("ready", flush=True)
time.sleep(3)
print("lived on", flush=True)
time.sleep(60)
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_sigterm_even_twice_lets_the_step_end():
    process = start(TRAINING)
    process.terminate()
    process.terminate()
    assert process.communicate(timeout=60)[0] == "saved after SIGTERM\n"
    assert process.returncode == 0


def test_the_second_ctrl_c_does_not_wait():
    process = start(TRAINING)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == "" and process.returncode == -signal.SIGINT


def test_a_worker_lives_on_for_a_while():
    process = start(WORKER, "5")
    process.send_signal(signal.SIGINT)
    process.terminate()
    assert process.stdout.readline() == "lived on\n"
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGALRM


INTERRUPTED_AT_IMPORT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_path("train_accelerate.py", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["numpy", "torch", "convzoo.training.run"])
def test_ctrl_c_while_a_training_imports_ends_it_without_a_traceback(module):
    done = run("-c", INTERRUPTED_AT_IMPORT, module, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "" and "Traceback" not in done.stderr
