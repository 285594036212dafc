"""Tell how a run is going: progress bar, metrics.jsonl, trackers; and keep its clock."""

import sys
import time
from collections.abc import Iterator
from typing import Any, Self

import torch
from accelerate import Accelerator
from tqdm import tqdm

from convzoo.recipe.files import recipe_to_tables
from convzoo.recipe.settings import Recipe
from convzoo.training.metrics_log import MetricsLog, memory_gb
from convzoo.training.progress import Plan, State
from convzoo.training.trackers import Trackers


class RunLog:
    """Notes each step, and from time to time writes a line about the steps since the last one.

    In a `with` block it shows the progress bar, on the main process.

    Args:
        recipe: of the run; its folder exists.
        plan: of the run.
        state: of the run: lines have its step and time, and its time of training grows here.
        accelerator: the processes; all take part in `take_losses`, one writes.
    """

    def __init__(self, recipe: Recipe, plan: Plan, *, state: State, accelerator: Accelerator):
        is_main = accelerator.is_main_process
        self.recipe, self.plan, self.state, self.accelerator = recipe, plan, state, accelerator
        self.batch_size = recipe.train.global_batch_size
        self.metrics = MetricsLog(
            recipe.folder / "metrics.jsonl",
            state.step,
            evaluates_again=state.evaluation_due,
            enabled=is_main,
        )
        self.trackers = Trackers(
            recipe.run.trackers if is_main else (),
            recipe.folder,
            run_name=recipe.run.name,
            config=recipe_to_tables(recipe),
        )
        self.losses: list[torch.Tensor] = []  # since the last line; so are these:
        self.data_wait = 0.0
        self.seconds = 0.0
        self.restart_clock()

    def __enter__(self) -> Self:
        self.bar = tqdm(
            desc=self.recipe.run.name,
            total=self.plan.total_steps * self.batch_size,
            initial=self.state.step * self.batch_size,
            unit=" images",
            unit_scale=True,
            disable=not self.accelerator.is_main_process,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def restart_clock(self) -> None:
        """Leave out the time since the last line: it was no training."""
        self.started = time.perf_counter()

    def waiting(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches of the steps that are left, and note the time of waiting for them."""
        self.restart_clock()
        while not self.plan.is_over(self.state):
            asked = time.perf_counter()
            batch = next(batches)
            self.data_wait += time.perf_counter() - asked
            yield batch

    def note_step(self, loss: torch.Tensor) -> None:
        """Remember a step's loss, which a GPU may not have computed yet."""
        self.losses.append(loss)
        self.bar.update(self.batch_size)

    def take_losses(self) -> list[float]:
        """Return the losses since the last line, means over processes, and stop the clock.

        Waits for the device: the time until then is that of all the steps.
        """
        losses: list[float] = self.accelerator.reduce(torch.stack(self.losses), "mean").tolist()
        self.seconds = time.perf_counter() - self.started
        self.state.elapsed_seconds += self.seconds
        return losses

    def write_training(
        self, losses: list[float], *, learning_rate: float, grad_norm: torch.Tensor | None
    ) -> None:
        """Write a line about the steps of `take_losses`, and start the clock for the next ones."""
        loss, waited = sum(losses) / len(losses), self.data_wait / self.seconds
        norm = {} if grad_norm is None else {"grad_norm": float(grad_norm)}
        self.write(
            loss=loss,
            learning_rate=learning_rate,
            images_per_second=len(losses) * self.batch_size / self.seconds,
            data_wait_fraction=waited,
            memory_gb=memory_gb(),
            **norm,
        )
        self.bar.set_postfix(loss=f"{loss:.4f}", wait=f"{waited:.0%}")
        self.losses, self.data_wait = [], 0.0
        self.restart_clock()

    def write_evaluation(self, values: dict[str, float], *, shows_top5: bool) -> None:
        """Write the metrics of an evaluation, and show them; of few classes top-5 says nothing."""
        self.write(**{f"eval_{key}": value for key, value in values.items()})
        if self.accelerator.is_main_process:
            top5 = f", top-5 {values['top5_accuracy']:.2%}" if shows_top5 else ""
            self.bar.write(
                f"epoch {self.epoch:.2f}: validation loss {values['loss']:.4f}, "
                f"top-1 {values['top1_accuracy']:.2%}{top5}"
            )

    @property
    def epoch(self) -> float:
        """Passes over the training images so far; the last batch may go beyond the last one."""
        return min(self.state.step / self.plan.steps_per_epoch, self.recipe.train.epochs)

    def write(self, **values: float) -> None:
        """Append a line to metrics.jsonl, and send it to the trackers."""
        step, epoch = self.state.step, self.epoch
        elapsed = self.state.elapsed_seconds
        self.metrics.write(step=step, epoch=epoch, elapsed_seconds=elapsed, **values)
        self.trackers.log(step, epoch=epoch, **values)
