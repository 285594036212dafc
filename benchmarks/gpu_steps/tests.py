"""Runs `pytest -m gpu` and notes each test as it ends."""

import re
import subprocess
import sys
import time

from benchmarks.gpu_steps.record import Record, StepArguments, step_arguments

FILES = ("tests/test_gpu_training.py", "tests/test_mixing.py", "tests/test_ema.py")
OUTCOME = re.compile(r"^(tests/\S+) (PASSED|FAILED|SKIPPED|ERROR|XFAIL)\b")


def main(args: StepArguments) -> None:
    """Run the tests; a run whose time is over has the outcomes so far."""
    record = Record(args.output, "outcome of each test that needs a GPU", seconds=args.seconds)
    done = [f"--deselect={row['case']}" for row in record.content["rows"]]
    # Without a GPU the tests that a CPU can run of the same files stand for them.
    chosen = ["-m", "not gpu", "-k", "at_once or saved_state"] if args.dry_run else ["-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    command += [*FILES, *done, "--durations=0", "--color=no"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    last = time.monotonic()
    for line in process.stdout:
        print(line, end="", flush=True)  # into the step's log
        if found := OUTCOME.match(line):
            test, outcome = found.groups()
            seconds, last = time.monotonic() - last, time.monotonic()
            if not record.has(test):  # an error may come after the outcome
                row = {"case": test, "outcome": outcome.lower(), "seconds": round(seconds, 1)}
                record.add(row)
    status = process.wait()
    if status > 1 and status != 5:  # 1: a test failed; 5: there was none left
        raise SystemExit(status)
    record.finish()


if __name__ == "__main__":
    main(step_arguments())
