"""Train the runs of a sweep, one after another or several at a time, and go on where it stopped.

The folder of a sweep has sweep.json (what is tried, and what became of each run), the folder of
each run, recipes/NAME.toml and, where several run at a time, logs/NAME.log.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from convzoo.environment import now
from convzoo.experiments.reading_runs import is_finished
from convzoo.experiments.sweep_settings import PlannedRun
from convzoo.files import SCHEMA_VERSION, write_json, write_text
from convzoo.own_images.launching import start_training
from convzoo.recipe.files import load_recipe, recipe_differences, recipe_to_toml

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """How many runs train at a time, and with what.

    Attributes:
        parallel: runs at a time.
        processes: of each run.
        gpus: names of the GPUs, for CUDA_VISIBLE_DEVICES; none where there is no GPU.
        to_files: whether runs write into log files instead of the terminal.
    """

    parallel: int = 1
    processes: int = 1
    gpus: tuple[str, ...] = ()
    to_files: bool = False

    def environment(self, lane: int) -> dict[str, str]:
        """Return what the runs of a lane find in their environment."""
        if self.gpus:
            own = self.gpus[lane * self.processes : (lane + 1) * self.processes]
            return {"CUDA_VISIBLE_DEVICES": ",".join(own)}
        if self.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
            threads = (os.cpu_count() or 1) // (self.parallel * self.processes)
            return {"OMP_NUM_THREADS": str(max(1, threads))}
        return {}


def plan_lanes(parallel: int, processes: int, *, to_files: bool) -> Lanes:
    """Share the GPUs out, if there are some.

    Raises:
        ValueError: if there are fewer than the runs at a time need.
    """
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    gpus = tuple(visible.split(","))[:count]
    if gpus and parallel * processes > len(gpus):
        raise ValueError(
            f"--parallel runs must have GPUs of their own; {parallel} runs of {processes} "
            f"process(es) need {parallel * processes}, and there are {len(gpus)}"
        )
    return Lanes(
        parallel=parallel, processes=processes, gpus=gpus, to_files=to_files or parallel > 1
    )


@dataclass(kw_only=True)
class _Active:
    run: PlannedRun
    lane: int
    process: subprocess.Popen[bytes]
    log: TextIO | None
    started: float


@dataclass(kw_only=True)
class Sweep:
    """A sweep: its plan, and what became of it so far.

    Attributes:
        folder: which exists and is locked.
        runs: in the order in which they are started.
        about: what sweep.json says besides.
        status: of each run: waiting, running, finished, stopped or failed.
        problems: what failed runs said.
        signal: that ended the sweep, or 0.
    """

    folder: Path
    runs: Sequence[PlannedRun]
    about: dict[str, Any]
    status: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    signal: int = 0

    def prepare(self) -> None:
        """Check the folders of the runs, and write recipes and sweep.json.

        Raises:
            OSError: if something cannot be written.
            ValueError: if a run was made with another recipe; all such are named.
        """
        problems = []
        for run in self.runs:
            saved = run.recipe.folder / "recipe.toml"
            if saved.is_file() and (changed := recipe_differences(load_recipe(saved), run.recipe)):
                problems.append(f"{run.recipe.folder} ({'; '.join(changed)})")
        if problems:
            raise ValueError(
                f"runs of a sweep must go on with their recipes; other ones made "
                f"{', '.join(problems)}. Give another --output, or delete them"
            )
        (self.folder / "recipes").mkdir(exist_ok=True)
        for run in self.runs:
            write_text(self.recipe_path(run), recipe_to_toml(run.recipe))
            finished = is_finished(run.recipe.folder)
            self.status[run.name] = "finished" if finished else "waiting"
        self.write()

    def recipe_path(self, run: PlannedRun) -> Path:
        """Return where the recipe of a run is."""
        return self.folder / "recipes" / f"{run.name}.toml"

    def write(self) -> None:
        """Write sweep.json."""
        runs = [
            {
                "name": run.name,
                "status": self.status[run.name],
                "settings": run.settings,
                **({"error": self.problems[run.name]} if run.name in self.problems else {}),
            }
            for run in self.runs
        ]
        content = {"schema_version": SCHEMA_VERSION, **self.about, "date": now(), "runs": runs}
        write_json(self.folder / "sweep.json", content)

    def train(self, lanes: Lanes) -> None:
        """Train what is not finished; ends when all runs have ended, or after a signal."""
        left = [run for run in self.runs if self.status[run.name] != "finished"]
        if done := len(self.runs) - len(left):
            logger.info("%d of %d runs are finished already", done, len(self.runs))
        active: list[_Active] = []
        with self._signals(active):
            while active or (left and not self.signal):
                while left and len(active) < lanes.parallel and not self.signal:
                    active.append(self._start(left.pop(0), lanes, active))
                    if self.signal:  # it came while the run was started
                        active[-1].process.terminate()
                time.sleep(POLL_SECONDS)
                for each in [each for each in active if each.process.poll() is not None]:
                    active.remove(each)
                    self._end(each)

    def _start(self, run: PlannedRun, lanes: Lanes, active: Sequence[_Active]) -> _Active:
        lane = min(set(range(lanes.parallel)) - {each.lane for each in active})
        number = list(self.runs).index(run) + 1
        logger.info("run %d of %d: %s", number, len(self.runs), run.name)
        log = None
        if lanes.to_files:
            (self.folder / "logs").mkdir(exist_ok=True)
            log = (self.folder / "logs" / f"{run.name}.log").open("a", encoding="utf-8")
        self.status[run.name] = "running"
        self.problems.pop(run.name, None)
        self.write()
        process = start_training(
            self.recipe_path(run),
            lanes.processes,
            environment=lanes.environment(lane),
            output=log or sys.stderr,
        )
        return _Active(run=run, lane=lane, process=process, log=log, started=time.monotonic())

    def _end(self, ended: _Active) -> None:
        run, code = ended.run, ended.process.returncode
        if ended.log:
            ended.log.close()
        if is_finished(run.recipe.folder):
            self.status[run.name] = "finished"
        elif code == 0 or self.signal:
            self.status[run.name] = "stopped"
        else:
            self.status[run.name] = "failed"
            problem = f"exit status {code}"
            if ended.log:
                problem = _last_words(Path(ended.log.name)) or problem
            self.problems[run.name] = problem
            logger.error("run %s failed: %s", run.name, problem)
        if self.status[run.name] == "finished" and ended.log:
            logger.info("finished: %s", run.name)
        self.write()

    @contextmanager
    def _signals(self, active: list[_Active]) -> Iterator[None]:
        """Pass a signal on: the runs save checkpoints and end, and no other one begins."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = number
            for each in active:
                each.process.terminate()

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _last_words(log: Path) -> str:
    """Return the last line of a log that says error, else its last one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")
