"""Train an image classifier from a recipe, on any number of processes.

    accelerate launch -q train_accelerate.py recipes/quickstart.toml
    accelerate launch -q train_accelerate.py recipes/quickstart.toml train.epochs=1 run.name=short
    accelerate launch -q --multi_gpu --num_processes 8 train_accelerate.py RECIPE

On CPUs, two processes need ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2
(--cpu would silently start one).

Everything that decides the result stands in the recipe; `python -m convzoo recipe` explains its
keys. The run writes <output_dir>/<name>/: checkpoints/, metrics.jsonl, recipe.toml,
training_curve.png and at the end model/, a complete folder for `from_pretrained`,
`python -m convzoo evaluate` and `python -m hub_cards render`. Started again, it resumes from its
newest good checkpoint. SIGTERM or Ctrl-C saves one and ends this process with status 0 (`accelerate
launch` itself reports the signal).

Read `train` first: it is the loop. What it works with are the parts of a `Run`
(convzoo/training/run.py), which is begun, saved and published there.
"""

import gc
import signal

if __name__ == "__main__":  # Ctrl-C ends a start, too, without a traceback; StopRequest is later
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until the libraries are imported: nothing of them is garbage

import argparse
import logging
import math
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convzoo.data.stream import train_batches
from convzoo.errors import expected_problem
from convzoo.evaluation.predicting import predict_split
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import MOST_WITHOUT_TOP5
from convzoo.inspection.monitor_report import diagnose, plot_monitors
from convzoo.recipe.files import load_recipe
from convzoo.signals import StopRequest
from convzoo.training.learner import AFTER_DIVERGENCE
from convzoo.training.losses import classification_loss
from convzoo.training.metrics_log import read_metrics
from convzoo.training.run import Run, begin_run, start_processes
from convzoo.training.run_folder import claim_folder
from convzoo.training.schedule import learning_rate_at

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> None:
    """Train as the recipe says; see the module's docstring."""
    if not gc.isenabled():  # what was imported stays, and need not be searched again and again
        gc.freeze()
        gc.enable()
    args = parse_args(argv)
    recipe = load_recipe(args.recipe, args.overrides)
    accelerator = start_processes(recipe)
    if not claim_folder(recipe, accelerator):
        accelerator.end_training()
        return
    stop = StopRequest(accelerator)
    if recipe.run.push_to:
        import hub_cards.hub.pushing  # noqa: F401  what it needs is missed now, not after the training

    run = begin_run(recipe, accelerator)
    finished = train(run, stop)
    if finished:
        if run.stopped_early:
            logger.info(
                "no better accuracy in %d evaluations: the training ends after step %d of %d",
                *(recipe.train.early_stopping_patience, run.state.step, run.plan.total_steps),
            )
        run.publish()
        report_monitors(run)
    else:
        logger.info(
            "stopped by %s after step %d of %d; the same command%s resumes from %s",
            stop.signal or "a signal to another process",
            run.state.step,
            run.plan.total_steps,
            " with run.resume=auto" if recipe.run.resume == "never" else "",
            recipe.folder / "checkpoints",
        )
    run.end()
    if finished and accelerator.is_main_process and recipe.run.push_to:  # nobody waits for it
        push(recipe.folder / "model", recipe.run.push_to, private=recipe.run.push_private)


# ---- the loop ----------------------------------------------------------------------------------
def train(run: Run, stop: StopRequest) -> bool:
    """Take the steps that are left; returns False if a signal ended them early."""
    recipe, accelerator, state = run.recipe, run.accelerator, run.state
    learner, monitors, num_classes = run.learner, run.monitors, len(run.data.label_names)
    label_weights = run.label_weights
    pin = accelerator.device.type == "cuda"
    batches = train_batches(run.stream, recipe.data.num_workers, pin=pin)
    with run.log as log, closing(batches):
        if state.evaluation_due and not evaluate(run, stop, saved=True):
            return False
        for batch in log.waiting(batches):  # uint8 crops, made by the data workers
            run.unreadable.add(batch["unreadable"])
            monitors.begin(state.step)
            # On the device: normalised, erased, mixed.
            images, labels = run.transform(batch, state.step)
            seed_step(recipe.run.seed, state.step, accelerator.process_index)
            learning_rate = learning_rate_at(
                state.step,
                recipe.optimizer.learning_rate,
                recipe.schedule,
                total_steps=run.plan.total_steps,
                steps_per_epoch=run.plan.steps_per_epoch,
                plateau_history=state.eval_history,
            )
            learner.set_learning_rate(learning_rate)

            step_loss = torch.zeros((), device=accelerator.device)
            step_weight = label_weights.of_global_batch(labels)  # number of images without weights
            with monitors.watching():
                for some_images, some_labels, is_last in micro_batches(
                    images, labels, run.num_micro_batches
                ):
                    with nullcontext() if is_last else accelerator.no_sync(learner.model):
                        logits = learner.model(some_images).logits
                        loss = classification_loss(
                            logits,
                            some_labels,
                            settings=recipe.train,
                            num_classes=num_classes,
                            weights=label_weights.weights,
                        )
                        # DDP takes the mean over processes, whose shares of a batch may differ.
                        share = label_weights.of(some_labels) * accelerator.num_processes
                        loss = loss * (share / step_weight)
                        accelerator.backward(loss)
                    step_loss += loss.detach()
            monitors.after_backward(accelerator.scaler)
            grad_norm = learner.step()  # clip, optimizer, slope limits, averaged weights
            log.trackers.look(monitors.end())
            state.step += 1
            log.note_step(step_loss)

            if after_step(run, stop, learning_rate=learning_rate, grad_norm=grad_norm):
                return False
    return True


def micro_batches(
    images: Tensor, labels: Tensor, count: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Cut a process's share of a batch into micro-batches, and tell which is the last."""
    parts = zip(images.tensor_split(count), labels.tensor_split(count), strict=True)
    for number, (some_images, some_labels) in enumerate(parts, 1):
        yield some_images, some_labels, number == count


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Seed dropout and drop path by run, step and process only: a resumed run repeats them."""
    sequence = np.random.SeedSequence([seed, step, process_index])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def after_step(
    run: Run, stop: StopRequest, *, learning_rate: float, grad_norm: Tensor | None
) -> bool:
    """Log, save and evaluate where it is due; returns whether to stop before the last step."""
    plan, state, log = run.plan, run.state, run.log
    stopping = stop.agreed(state.step) and not plan.is_done(state.step)
    if not (stopping or plan.logs(state.step)):
        return False
    losses = log.take_losses()
    run.check_losses(losses)
    log.write_training(losses, learning_rate=learning_rate, grad_norm=grad_norm)
    state.evaluation_due = plan.evaluates(state.step)
    saving = stopping or plan.saves(state.step)
    if saving:  # after the loss was found to be finite, before an evaluation that may fail
        run.save()
    if state.evaluation_due and not stopping:
        stopping = not evaluate(run, stop, saved=saving)
    log.restart_clock()
    return stopping


def evaluate(run: Run, stop: StopRequest, *, saved: bool) -> bool:
    """Measure the published weights on the validation split; returns False if a signal came first.

    Args:
        run: whose state learns the outcome.
        stop: asked after each batch.
        saved: whether there is a checkpoint of this step; it learns the outcome, too.
    """
    recipe, state, learner, validation = run.recipe, run.state, run.learner, run.data.validation
    assert validation is not None  # else the plan has no evaluations
    learner.synchronise()
    with learner.published():
        predictions = predict_split(
            learner.bare_model,
            learner.processor,
            source=validation,
            accelerator=run.accelerator,
            protocol=EvaluationProtocol(
                crops=recipe.train.eval_crops,
                exif_rotation=recipe.data.exif_rotation,
                batch_size=recipe.train.eval_batch_size,
                num_workers=recipe.data.num_workers,
            ),
            stopped=lambda: stop.signal is not None,
        )
    if predictions is None:
        if not saved:
            run.save()
        return False
    values = predictions.summary()
    run.log.write_evaluation(values, shows_top5=len(validation.label_names) > MOST_WITHOUT_TOP5)
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"the validation loss must be finite; it is {values['loss']} after step {state.step}. "
            f"{AFTER_DIVERGENCE}"
        )
    is_best = state.note_evaluation(values, recipe.schedule.plateau_metric)
    if (saved or (is_best and recipe.keeps_best)) and not run.plan.is_done(state.step):
        run.save()
    return True


# ---- after the training ------------------------------------------------------------------------
def report_monitors(run: Run) -> None:
    """Plot what the monitors saw, show it to the trackers, and warn of each fault in it."""
    plots = []
    if run.accelerator.is_main_process and run.recipe.monitor.names:
        plots = plot_monitors(run.recipe.folder)
        for fault in diagnose(read_metrics(run.recipe.folder / "monitors.jsonl")):
            logger.warning("monitors: %s", fault)
    run.log.trackers.complete(run.state.step, plots)


def push(folder: Path, repo_id: str, *, private: bool) -> None:
    """Push a finished model. A failure is logged, never raised."""
    from hub_cards.hub.push_errors import PushError
    from hub_cards.hub.pushing import PushOptions, push_folder

    try:
        pushed = push_folder(folder, repo_id, options=PushOptions(private=private))
        logger.info("pushed: %s", pushed.url)
    except (PushError, OSError, ValueError) as error:
        command = f"python -m hub_cards push {folder} {repo_id}"
        logger.error("not pushed: %s. The model is whole; push it with: %s", error, command)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the recipe's path and its overrides."""
    parser = argparse.ArgumentParser(
        description="Train an image classifier from a recipe, on any number of processes.",
        epilog="`python -m convzoo recipe` prints every section and key with its meaning.",
    )
    parser.add_argument("recipe", help="TOML file, as in recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_args(argv)


if __name__ == "__main__":
    problem: str | int | None = None
    try:
        main()
    except Exception as error:
        expected = expected_problem(error)
        problem = 1 if expected is None else f"error: {expected}"
        if expected is None:
            traceback.print_exc()
    sys.exit(problem)  # after the traceback is gone, and with it model and data workers
