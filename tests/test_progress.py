"""The plan against exact fractions, the state against checkpoints of older runs."""

import math
from fractions import Fraction

import pytest

from convzoo.recipe.files import recipe_from_tables
from convzoo.training.progress import Plan, State, completes, plateau_value


@pytest.mark.parametrize(("images", "batch"), [(1_281_167, 128), (61, 12), (61, 60), (3, 12)])
@pytest.mark.parametrize("epochs", [1.0, 0.7, 3.0])
def test_what_comes_every_few_epochs_does_not_drift(images, batch, epochs):
    per_epoch = Fraction(images, batch)
    exact = Fraction(str(epochs)) * per_epoch
    expected = sorted({max(1, math.ceil(number * exact)) for number in range(1, 13)})
    last = expected[-1]
    found = [step for step in range(1, last + 1) if completes(step, epochs * float(per_epoch))]
    assert found == expected
    assert not completes(1, 0.0)


def plan(num_images, eval_split="test", **train):
    train = {"global_batch_size": 10, "log_every_steps": 4, **train}
    tables = {"data": {"path": "images", "eval_split": eval_split}, "train": train}
    return Plan.of(recipe_from_tables(tables), num_images)


def steps(question, total):
    return [step for step in range(1, total + 1) if question(step)]


def test_what_is_rare_comes_at_its_steps_and_never_without_a_line_of_metrics():
    rare = plan(25, epochs=4.0, evaluate_every_epochs=2.0, checkpoint_every_epochs=1.0)
    assert rare.total_steps == 10 and rare.steps_per_epoch == 2.5
    assert steps(rare.evaluates, 10) == [5, 10]
    assert steps(rare.saves, 10) == [3, 5, 8, 10]  # the last before the last evaluation
    assert steps(rare.logs, 10) == [3, 4, 5, 8, 10]
    assert steps(rare.is_done, 10) == [10]


def test_without_validation_the_finished_model_takes_the_place_of_the_last_checkpoint():
    unmeasured = plan(25, eval_split="", epochs=4.0, checkpoint_every_epochs=2.0)
    assert steps(unmeasured.evaluates, 10) == []
    assert steps(unmeasured.saves, 10) == [5]
    assert steps(unmeasured.logs, 10) == [4, 5, 8, 10]


def test_zero_epochs_are_only_the_end_and_hardly_any_are_one_step():
    short = plan(25, epochs=1e-6, evaluate_every_epochs=0.0, checkpoint_every_epochs=0.0)
    assert short.total_steps == 1
    assert short.evaluates(1) and short.saves(1)
    assert not plan(25, evaluate_every_epochs=0.0).evaluates(3)


def test_more_steps_than_a_float_counts_are_refused():
    with pytest.raises(
        ValueError, match=r"at most 2\*\*53 steps; 1e\+15 epochs of 1000 images are"
    ):
        plan(1000, epochs=1e15)
    assert plan(10, epochs=1e15).total_steps == 10**15


@pytest.mark.parametrize("images", [3, 25, 61, 1000])
@pytest.mark.parametrize("epochs", [0.01, 0.1, 0.5, 1.0, 2.7, 10.0])
def test_a_warm_up_as_long_as_the_run_has_no_more_steps_than_it(images, epochs):
    planned = plan(images, epochs=epochs)
    assert round(epochs * planned.steps_per_epoch) <= planned.total_steps


def test_the_best_evaluation_is_remembered_and_a_tie_is_not_better():
    state = State(step=5, evaluation_due=True)
    values = {"top1_accuracy": 0.5, "top5_accuracy": 0.75, "loss": 2.0}
    assert state.note_evaluation(values, "top5_error") and not state.evaluation_due
    state.step = 10
    assert not state.note_evaluation(values, "loss")
    assert state.best == {"step": 5, "top1_accuracy": 0.5}
    assert state.eval_history == [0.25, 2.0]
    assert plateau_value(values, "top1_error") == 0.5


def test_a_state_survives_its_checkpoint_and_older_ones_lack_some_of_it():
    state = State(step=3, best={"step": 2, "top1_accuracy": 0.5}, unreadable={"a": "cut off"})
    saved = {"optimizer": {}, "raw_model": None} | state.state_dict()
    assert State.of(saved) == state
    older = {k: v for k, v in saved.items() if k not in ("unreadable", "evaluation_due")}
    assert State.of(older) == State(step=3, best={"step": 2, "top1_accuracy": 0.5})


def test_training_stops_after_so_many_evaluations_without_a_better_one():
    patient = plan(25, epochs=9.0, early_stopping_patience=2)
    state = State()
    over = []
    for step, accuracy in enumerate((0.3, 0.5, 0.5, 0.6, 0.2, 0.6, 0.1), 1):
        state.step = step
        values = {"top1_accuracy": accuracy, "top5_accuracy": 1.0, "loss": 1.0}
        state.note_evaluation(values, "loss")
        over.append(patient.is_over(state))
    assert over == [False, False, False, False, False, True, True]  # a tie is no progress
    assert not plan(25, epochs=9.0).stops_early(state)
    assert State.of(state.state_dict()) == state
    state.best = {}  # its checkpoint was not kept
    assert patient.stops_early(state)
