"""Where a run is going and where it stands: a pure plan, and the state that checkpoints hold.

Steps are counted in one way: a step's number is how many optimizer steps were done before it, so
`State.step` is both the number of the step that comes next and the count of those that are done.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from convzoo.recipe.settings import Recipe

MOST_STEPS = 2**53  # beyond it a float, as epochs are, does not count each step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many steps a run has, and after which of them something rare happens.

    Each question takes the number of steps that are done.

    Attributes:
        steps_per_epoch: training images over the global batch; need not be whole.
        total_steps: steps of the whole run.
        log_period: steps between lines of metrics.
        save_period: steps between checkpoints; need not be whole; 0 for none.
        evaluation_period: steps between evaluations; need not be whole; 0 for only after the last.
        has_validation: whether there is a split to evaluate on.
        patience: evaluations in a row without progress after which training ends; 0 for never.
    """

    steps_per_epoch: float
    total_steps: int
    log_period: int
    save_period: float
    evaluation_period: float
    has_validation: bool
    patience: int = 0

    @classmethod
    def of(cls, recipe: Recipe, num_images: int) -> Self:
        """Plan a recipe's run over this many training images.

        Raises:
            ValueError: if it has more steps than can be counted in floating point.
        """
        train = recipe.train
        steps_per_epoch = num_images / train.global_batch_size
        steps = train.epochs * num_images / train.global_batch_size
        if steps > MOST_STEPS:
            raise ValueError(
                f"train.epochs must make at most 2**53 steps; {train.epochs:g} epochs of "
                f"{num_images} images are {steps:g} steps of {train.global_batch_size}. Lower it"
            )
        total_steps = max(1, math.ceil(steps))
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            log_period=train.log_every_steps,
            save_period=train.checkpoint_every_epochs * steps_per_epoch,
            evaluation_period=train.evaluate_every_epochs * steps_per_epoch,
            has_validation=recipe.evaluates,
            patience=train.early_stopping_patience,
        )

    def is_done(self, steps: int) -> bool:
        """Tell whether that was the last step."""
        return steps >= self.total_steps

    def is_over(self, state: "State") -> bool:
        """Tell whether no step is left: all are done, or evaluations show no progress any more."""
        return self.is_done(state.step) or self.stops_early(state)

    def stops_early(self, state: "State") -> bool:
        """Tell whether so many evaluations came without progress that training ends."""
        history = state.top1_history
        if not (self.patience and history):
            return False
        return len(history) - 1 - history.index(max(history)) >= self.patience

    def evaluates(self, steps: int) -> bool:
        """Tell whether an evaluation is due."""
        due = self.is_done(steps) or completes(steps, self.evaluation_period)
        return self.has_validation and due

    def saves(self, steps: int) -> bool:
        """Tell whether a checkpoint is due: periodically, and before the last evaluation.

        After the last step without an evaluation, the finished model takes its place.
        """
        if self.is_done(steps):
            return self.has_validation
        return completes(steps, self.save_period)

    def logs(self, steps: int) -> bool:
        """Tell whether a line of metrics is due; there is one before anything else that is rare."""
        periodic = steps % self.log_period == 0 or self.is_done(steps)
        return periodic or self.evaluates(steps) or self.saves(steps)


def completes(steps: int, period: float) -> bool:
    """Tell whether the last of so many steps completed a multiple of a period; 0 is for never."""
    if not period:
        return False
    before, after = ((count + 1e-6) // period for count in (steps - 1, steps))
    return after > before


@dataclass
class State:
    """Where a run stands: what a checkpoint holds besides the learner.

    Attributes:
        step: optimizer steps that are done.
        elapsed_seconds: time of training, without evaluations and checkpoints.
        best: step and top1_accuracy of the best evaluation so far, or {}.
        top1_history: top-1 accuracy of each evaluation.
        eval_history: what a plateau schedule watches, of each evaluation; lower is better.
        evaluation_due: whether the evaluation of this step is still to come.
        unreadable: name of an image that cannot be read -> why.
        data_fingerprint: of the training images.
        validation: description of the images that are evaluated on, or {}.
        label_fingerprint: of their labels and the names of the classes; "" where the commit of a
            Hub dataset stands for it, and in checkpoints of version 0.1.0.
    """

    step: int = 0
    elapsed_seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    top1_history: list[float] = field(default_factory=list)
    eval_history: list[float] = field(default_factory=list)
    evaluation_due: bool = False
    unreadable: dict[str, str] = field(default_factory=dict)
    data_fingerprint: str = ""
    validation: dict[str, Any] = field(default_factory=dict)
    label_fingerprint: str = ""

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> Self:
        """Take the state out of a checkpoint's content; older ones have no `unreadable`."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in checkpoint.items() if name in names})

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    def note_evaluation(self, values: dict[str, float], plateau_metric: str) -> bool:
        """Remember the evaluation of this step; returns whether it is the best so far."""
        self.evaluation_due = False
        self.eval_history.append(plateau_value(values, plateau_metric))
        self.top1_history.append(values["top1_accuracy"])
        if values["top1_accuracy"] <= self.best.get("top1_accuracy", -1.0):
            return False
        self.best = {"step": self.step, "top1_accuracy": values["top1_accuracy"]}
        return True


def plateau_value(values: dict[str, float], metric: str) -> float:
    """Return what a plateau schedule watches; lower is better."""
    if metric == "loss":
        return values["loss"]
    return 1 - values[metric.replace("error", "accuracy")]
