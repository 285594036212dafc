"""Results of a step, on the disk as soon as each number is known."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convzoo.environment import describe_environment, now
from convzoo.files import write_json


@dataclass(frozen=True, kw_only=True)
class StepArguments:
    """What a step is told.

    Attributes:
        output: its result file.
        seconds: its time.
        data: a folder with CIFAR-10, or "".
        dry_run: tiny sizes on a CPU.
    """

    output: Path
    seconds: float
    data: str
    dry_run: bool


def step_arguments(argv: list[str] | None = None) -> StepArguments:
    """Parse a step's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args(argv)
    return StepArguments(
        output=args.output, seconds=args.seconds, data=args.data, dry_run=args.dry_run
    )


class Record:
    """The result file of a step: one row for each case, in the order in which they were done.

    A case that was running when the process ended is recorded as failed by the next process, which
    goes on after it.

    Args:
        path: of the file; rows that it has are kept.
        what: one sentence about the rows.
        seconds: how long this process may work.
    """

    def __init__(self, path: Path, what: str, *, seconds: float):
        self.path = path
        self.end = time.monotonic() + seconds
        self.content: dict[str, Any] = {"what": what, "complete": False, "running": "", "rows": []}
        if path.is_file():
            self.content = json.loads(path.read_text(encoding="utf-8"))
        self.content |= {"date": now(), "environment": describe_environment()}
        if case := self.content["running"]:
            self.add({"case": case, "error": "the process ended while it ran"})

    @property
    def seconds_left(self) -> float:
        """Time until this process is to end."""
        return self.end - time.monotonic()

    def has(self, case: str) -> bool:
        """Tell whether there is a row of a case."""
        return any(row["case"] == case for row in self.content["rows"])

    def add(self, row: dict[str, Any]) -> None:
        """Write a row; nothing runs any more."""
        self.content["rows"].append(row)
        self._write(running="")
        print(json.dumps(row), flush=True)

    def measure(self, case: str, call: Callable[[], dict[str, Any]], *, seconds: float) -> bool:
        """Add what a call returns, or its error; returns False if there is no time for it.

        Args:
            case: its name; a case that has a row is done.
            call: the measurement.
            seconds: how long it may take; it is not begun with less time left.
        """
        if self.has(case):
            return True
        if self.seconds_left < seconds:
            return False
        self._write(running=case)
        try:
            row = call()
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self.add({"case": case, "error": message[:1000]})
            if is_fatal(message):  # every later call of this process would fail, too
                raise
        else:
            self.add({"case": case, **row})
        return True

    def finish(self) -> None:
        """Say that there is nothing left to do."""
        self._write(complete=True)

    def _write(self, **changes: Any) -> None:
        self.content |= changes
        write_json(self.path, self.content)


def is_fatal(message: str) -> bool:
    """Tell whether an error leaves a process whose GPU cannot be used any more."""
    signs = ("CUDA error", "CUBLAS_STATUS_EXEC", "CUDNN_STATUS_EXEC", "device-side assert")
    return any(sign in message for sign in signs)
