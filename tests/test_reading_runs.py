"""`convzoo runs`: what run folders say, whole, half and damaged ones."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from convzoo.cli import main
from convzoo.experiments.reading_runs import find_runs
from convzoo.files import lock_folder, write_json, write_text
from convzoo.recipe.files import recipe_from_tables, recipe_to_toml
from convzoo.training.metrics_log import MetricsLog
from tests.support.clients import run


def make_run(folder, accuracies=(), *, finished=True, rate=0.1, **train):
    """A run folder as training writes it, with an evaluation after each epoch."""
    folder.mkdir(parents=True)
    tables = {"data": {"path": "x"}, "optimizer": {"learning_rate": rate}}
    recipe = recipe_from_tables(tables | {"train": {"epochs": 3.0} | train})
    write_text(folder / "recipe.toml", recipe_to_toml(recipe))
    log = MetricsLog(folder / "metrics.jsonl", 0)
    for epoch, accuracy in enumerate(accuracies, 1):
        where = {"step": 10 * epoch, "epoch": float(epoch), "elapsed_seconds": 2.0 * epoch}
        log.write(**where, loss=2 / epoch, images_per_second=100.0 * epoch)
        values = {"eval_loss": 1 / epoch, "eval_top1_accuracy": accuracy}
        log.write(**where, **values, eval_top5_accuracy=1.0)
    if finished:
        (folder / "model").mkdir()
        write_json(folder / "model" / "config.json", {})
        write_text(folder / "model" / "recipe.toml", "")
        results = {"images_per_second": 160.5, "stopped_early": len(accuracies) < 3}
        write_json(folder / "model" / "train_results.json", results)
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs in all states, and folders that are none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    make_run(folder / "good one", (0.5, 0.75, 0.625))
    make_run(folder / "sweep" / "early", (0.25, 0.2), rate=0.01)
    make_run(folder / "half", (0.125,), finished=False, global_batch_size=32)
    make_run(folder / "new", finished=False)
    diverged = make_run(folder / "diverged", (0.1,), finished=False, rate=9.0)
    write_json(diverged / "nonfinite_batch.json", {"step": 12, "loss": "nan", "images": []})
    broken = make_run(folder / "broken", (0.1,), finished=False)
    write_text(broken / "recipe.toml", "[train\n")
    (folder / "foreign").mkdir()
    write_text(folder / "foreign" / "notes.txt", "none")
    write_text(folder / "pets.toml", "")
    (folder / ".hidden").mkdir()
    return folder


def test_every_run_is_found_with_its_state_and_numbers(runs):
    found, foreign = find_runs([runs])
    assert foreign == [str(runs / "foreign")]
    assert {each.name: each.state for each in found} == {
        "broken": "damaged",
        "diverged": "diverged",
        "good one": "finished",
        "half": "stopped",
        "new": "not begun",
        "sweep/early": "finished",
    }
    by_name = {each.name: each for each in found}
    good = by_name["good one"]
    assert (good.top1_accuracy, good.best_top1_accuracy, good.best_epoch) == (0.625, 0.75, 2.0)
    assert (good.epochs, good.planned_epochs, good.seconds) == (3.0, 3.0, 6.0)
    assert (good.eval_loss, good.train_loss, good.images_per_second) == (
        pytest.approx(1 / 3, rel=1e-5),
        pytest.approx(2 / 3, rel=1e-5),
        160.5,
    )
    assert by_name["half"].images_per_second == 100.0
    assert by_name["sweep/early"].note == "ended early"
    assert by_name["diverged"].note == "the loss was not finite in step 12"
    assert by_name["broken"].note.startswith("recipe.toml cannot be read")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such lock")
def test_a_run_that_a_training_holds_is_running(runs):
    lock = lock_folder(runs / "half", AssertionError())
    try:
        ((half,), _) = find_runs([runs / "half"])
        assert (half.name, half.state) == ("half", "running")
    finally:
        os.close(lock)
    assert find_runs([runs / "half"])[0][0].state == "stopped"


def test_the_table_has_what_differs_and_is_sorted(runs, capsys, caplog):
    def names(*words):
        assert main(["runs", *words]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        return [line.partition("  ")[0] for line in lines if ": " not in line]

    assert main(["runs"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["optimizer.learning_rate", "train.global_batch_size"]
    assert lines[0].split() == [
        *("good", "one", "finished", "75.00%", "62.50%", "0.3333", "0.6667", "3/3", "160"),
        *("0.1", "256"),
    ]
    assert "no runs: runs/foreign" in caplog.text
    assert names() == ["good one", "sweep/early", "half", "broken", "diverged", "new"]
    assert names("--sort", "name")[0] == "broken"
    assert names("--sort", "optimizer.learning_rate")[0] == "sweep/early"
    assert names("runs/half", "runs/new", "--sort", "loss") == ["half", "new"]
    assert main(["runs", "--sort", "speed"]) == 1
    assert "--sort must be one of best, " in capsys.readouterr().err


def test_json_has_all_numbers_and_the_settings_that_differ(runs, capsys):
    assert main(["runs", "runs/good one", "runs/sweep", "--json"]) == 0
    good, early = json.loads(capsys.readouterr().out)
    assert good["settings"] == {"optimizer.learning_rate": 0.1}
    assert early["settings"] == {"optimizer.learning_rate": 0.01}
    assert good["best_top1_accuracy"] == 0.75 and good["folder"] == "runs/good one"


def test_a_plot_has_a_curve_for_each_run(runs, tmp_path, capsys):
    assert main(["runs", "--plot", str(tmp_path / "a.png")]) == 0
    assert main(["runs", "runs/new", "runs/half", "--plot", str(tmp_path / "b.png")]) == 0
    colours = []
    for name in ("a.png", "b.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        colours.append((np.ptp(pixels, axis=2) > 60).sum())
    assert colours[0] > 2 * colours[1] > 100


@pytest.mark.parametrize(
    ("folder", "message"),
    [("runs/foreign", "there must be a run in runs/foreign"), ("nowhere", "nowhere is none")],
)
def test_folders_without_runs_are_refused(runs, folder, message, *, capsys):
    assert main(["runs", folder]) == 1
    assert message in capsys.readouterr().err


def test_it_needs_neither_torch_nor_transformers(runs):
    code = "import sys; from convzoo.cli import main; main(['runs']); print(*sys.modules)"
    loaded = set(run("-c", code, cwd=runs.parent).stdout.split())
    assert not loaded & {"torch", "transformers", "datasets", "matplotlib"}
