"""A run is begun, stopped and begun again, in one process: what it may have changed meanwhile."""

import shutil

import pytest
from accelerate import Accelerator

from convzoo.recipe.files import load_recipe
from convzoo.training.metrics_log import read_metrics
from convzoo.training.run import begin_run
from convzoo.training.run_data import open_run_data
from convzoo.training.run_folder import check_run_folder, refuse_a_run_among_the_images
from tests.support.images import coloured_images, write_split


@pytest.fixture(scope="module")
def evaluated(tiny_recipe, tmp_path_factory):
    """The folder of a run that was stopped after an evaluation, and what it was begun with."""
    output = tmp_path_factory.mktemp("runs")
    (output / "tiny").mkdir()
    overrides = [f"run.output_dir={output}", "data.eval_limit=5"]
    evaluate_and_save(begin_run(load_recipe(tiny_recipe, overrides), Accelerator()))
    return output / "tiny"


def evaluate_and_save(run):
    values = {"top1_accuracy": 1.0, "top5_accuracy": 1.0, "loss": 0.5}
    run.state.step = 2
    run.log.write(**{f"eval_{key}": value for key, value in values.items()})
    run.state.note_evaluation(values, "loss")
    run.save()


@pytest.fixture
def begin(evaluated, tiny_recipe, tmp_path):
    """Begin a copy of that run with overrides; returns its folder, and the run."""

    def begin(*overrides):
        shutil.copytree(evaluated, tmp_path / "tiny", dirs_exist_ok=True)
        asked = [f"run.output_dir={tmp_path}", "data.eval_limit=5", *overrides]
        return tmp_path / "tiny", begin_run(load_recipe(tiny_recipe, asked), Accelerator())

    return begin


def other_validation_images(tmp_path):
    """The training images of `colour_data` in another folder, with other validation images."""
    write_split(tmp_path / "moved", "train", *coloured_images(61, seed=0))
    write_split(tmp_path / "moved", "test", *coloured_images(23, seed=2))
    return f"data.path={tmp_path / 'moved'}"


def test_a_best_evaluation_is_that_of_the_images_of_now(begin, caplog, tmp_path):
    for same in ((), ("data.num_workers=1",)):
        folder, run = begin(*same)
        assert (
            run.state.best == {"step": 2, "top1_accuracy": 1.0} and "set aside" not in caplog.text
        )
        assert [line for line in read_metrics(folder / "metrics.jsonl") if "eval_loss" in line]
    others = other_validation_images(tmp_path), "data.eval_limit=9", "train.eval_crops=10"
    for other in others:
        caplog.clear()
        folder, run = begin(other)
        assert "not those of the evaluations up to step 2" in caplog.text
        state = run.state
        assert (state.step, state.best, state.top1_history, state.eval_history) == (2, {}, [], [])
        (line,) = read_metrics(folder / "metrics.jsonl")
        assert line["former_eval_top1_accuracy"] == 1.0 and "eval_loss" not in line


def test_evaluations_that_are_switched_off_leave_those_of_before(
    begin, evaluated, tiny_recipe, *, caplog, tmp_path
):
    folder, run = begin("data.eval_split=''")
    assert run.state.best == {"step": 2, "top1_accuracy": 1.0} and "aside" not in caplog.text
    assert run.state.top1_history and run.state.eval_history and run.state.validation
    assert (folder / "metrics.jsonl").read_bytes() == (evaluated / "metrics.jsonl").read_bytes()
    run.state.step = 4
    run.save()
    for again, best in ((), {"step": 2, "top1_accuracy": 1.0}), (("data.eval_limit=9",), {}):
        asked = [f"run.output_dir={tmp_path}", "data.eval_limit=5", *again]
        state = begin_run(load_recipe(tiny_recipe, asked), Accelerator()).state
        assert (state.step, state.best) == (4, best)


def test_a_resume_that_is_refused_leaves_the_log_as_it_was(tiny_recipe, tmp_path):
    overrides = [f"run.output_dir={tmp_path}", "model.use_prelu=false"]
    (tmp_path / "tiny").mkdir()
    evaluate_and_save(begin_run(load_recipe(tiny_recipe, overrides), Accelerator()))
    log = tmp_path / "tiny" / "metrics.jsonl"
    before = log.read_bytes()
    changes = ["data.eval_limit=9", "monitor.names=['slopes']"]
    with pytest.raises(ValueError, match="monitor 'slopes' looks at PReLUs"):
        begin_run(load_recipe(tiny_recipe, [*overrides, *changes]), Accelerator())
    assert log.read_bytes() == before
    begin_run(load_recipe(tiny_recipe, [*overrides, *changes[:1]]), Accelerator())
    assert log.read_bytes() != before


def test_evaluating_on_the_training_images_is_told(tiny_recipe, caplog):
    open_run_data(load_recipe(tiny_recipe))
    assert "trained on" not in caplog.text
    open_run_data(load_recipe(tiny_recipe, ["data.eval_split=train"]))
    assert "accuracies will be those of images that are trained on" in caplog.text


@pytest.mark.parametrize(
    "decides",
    ["train.early_stopping_patience=2", "schedule.name=plateau", "run.publish=best"],
)
def test_evaluations_that_decide_stay_with_their_images(begin, decides, *, tmp_path):
    begin(decides)
    with pytest.raises(ValueError, match="must be those that .*step_00000002 was evaluated on"):
        begin(decides, other_validation_images(tmp_path))


def test_a_best_checkpoint_that_was_not_kept_is_told(begin, caplog):
    folder, run = begin("run.publish=best")
    assert run.state.best and "looked for from now on" not in caplog.text
    run.state.step = 4
    run.save()
    shutil.rmtree(folder / "checkpoints" / "step_00000002")
    run = begin_run(run.recipe, Accelerator())
    assert run.state.best == {} and "100.00 % after step 2, were not kept" in caplog.text


def test_checkpoints_without_the_recipe_of_their_run_have_one(evaluated, tiny_recipe, tmp_path):
    """As of somebody who copies checkpoints into a new folder, to go on from there."""
    shutil.copytree(evaluated / "checkpoints", tmp_path / "copy" / "checkpoints")
    asked = ["data.eval_limit=5", "optimizer.learning_rate=0.5"]
    check_run_folder(tmp_path / "copy", load_recipe(tiny_recipe, asked[:1]))
    with pytest.raises(ValueError, match="learning_rate: 0.05 -> 0.5.*pretrained=.*step_00000002 "):
        check_run_folder(tmp_path / "copy", load_recipe(tiny_recipe, asked))
    (tmp_path / "copy" / "checkpoints" / "step_00000002" / "recipe.toml").unlink()
    with pytest.raises(ValueError, match="needs an empty run folder"):
        check_run_folder(tmp_path / "copy", load_recipe(tiny_recipe, ["run.resume=never"]))


def test_a_run_does_not_lie_among_its_images(tiny_recipe, colour_data, tmp_path):
    refuse_a_run_among_the_images(load_recipe(tiny_recipe, [f"run.output_dir={tmp_path}"]))
    for place in (colour_data, colour_data / "runs"):
        with pytest.raises(ValueError, match="must not lie among the images"):
            refuse_a_run_among_the_images(load_recipe(tiny_recipe, [f"run.output_dir={place}"]))


def test_a_run_that_was_begun_among_its_images_goes_on_elsewhere(
    evaluated, tiny_recipe, colour_data, tmp_path
):
    """Moved out, as the refusal says; older versions let runs begin there."""
    data = tmp_path / "data"
    shutil.copytree(colour_data, data)
    shutil.copytree(evaluated, data / "runs" / "tiny")
    asked = [f"data.path={data}", "data.eval_limit=5", f"run.output_dir={data / 'runs'}"]
    with pytest.raises(ValueError, match="its folder is moved out and run.output_dir is"):
        refuse_a_run_among_the_images(load_recipe(tiny_recipe, asked))
    shutil.move(data / "runs" / "tiny", tmp_path / "moved" / "tiny")
    recipe = load_recipe(tiny_recipe, [*asked[:2], f"run.output_dir={tmp_path / 'moved'}"])
    refuse_a_run_among_the_images(recipe)
    check_run_folder(recipe.folder, recipe)
    state = begin_run(recipe, Accelerator()).state
    assert state.step == 2 and state.best == {"step": 2, "top1_accuracy": 1.0}
