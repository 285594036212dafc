"""`convzoo sweep`: what it tries, and that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from convzoo.cli import main
from convzoo.experiments.sweep_settings import (
    draw,
    grid,
    parse_tried,
    plan_runs,
    run_name,
    split_values,
)
from convzoo.experiments.sweeping import Lanes
from convzoo.training.metrics_log import read_metrics
from tests.support.clients import ENVIRONMENT

RATE = "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b,c", ["a", "b", "c"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("\"a,b\",'c,d'", ['"a,b"', "'c,d'"]),
        ('["x]", "y"],z', ['["x]", "y"]', "z"]),
        ("", [""]),
    ],
)
def test_values_are_split_outside_brackets_and_quotes(text, parts):
    assert split_values(text) == parts


def test_a_grid_has_every_combination_once():
    tried = parse_tried([f"{RATE}=1e-1,0.01", "model.depths=[1, 1],[2]", "train.epochs=3"])
    assert grid(tried) == [
        {RATE: rate, "model.depths": depths, "train.epochs": "3"}
        for rate in ("0.1", "0.01")
        for depths in ("[1, 1]", "[2]")
    ]


def test_draws_are_of_their_range_and_do_not_depend_on_other_settings_or_runs():
    words = [f"{RATE}=log:1e-4..1e-1", "train.ema_decay=uniform:0.5..1", "train.epochs=int:1..3"]
    runs = draw(parse_tried(words), 300, seed=7)
    assert draw(parse_tried(words), 20, seed=7) == runs[:20]
    assert draw(parse_tried(words), 20, seed=8) != runs[:20]
    rates = [each[RATE] for each in draw(parse_tried(words[:1]), 20, seed=7)]
    assert rates == [each[RATE] for each in runs[:20]]
    logs = np.log10([float(each[RATE]) for each in runs])
    counts = np.histogram(logs, bins=3, range=(-4, -1))[0]  # a third of them in each decade
    assert counts.sum() == 300 and counts.min() > 75
    decays = [float(each["train.ema_decay"]) for each in runs]
    assert (
        min(decays) >= 0.5 and max(decays) <= 1 and np.mean(decays) == pytest.approx(0.75, abs=0.03)
    )
    assert {each["train.epochs"] for each in runs} == {"1", "2", "3"}


def test_few_combinations_are_drawn_once_each():
    drawn = draw(parse_tried(["train.epochs=1,2", "run.seed=1,2"]), 9, seed=0)
    assert len(drawn) == 4 and len({json.dumps(each) for each in drawn}) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "an override must look like section.key=value; got 'x'"),
        (["train.epochs=1,2,1.0", "a=1"], "must look like"),
        (["train.epochs=1,2,1"], "values of train.epochs must differ; got 1 twice"),
        (["train.epochs=1", "train.epochs=2"], "train.epochs must be given once"),
        (["run.name=a,b"], "run.name is set by the sweep"),
        ([f"{RATE}=log:0..1"], r"log:LOW..HIGH of .* must have two numbers, .*above 0; got 0..1"),
        (["train.epochs=int:1..2.5"], "both whole; got 1..2.5"),
        ([f"{RATE}=uniform:2..1"], "LOW below HIGH; got 2..1"),
        ([f"{RATE}=uniform:a..b"], "got a..b"),
    ],
)
def test_words_that_are_no_settings_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_tried(words)


def test_ranges_need_a_number_of_runs(capsys, tiny_recipe):
    assert main(["sweep", str(tiny_recipe), f"{RATE}=log:1e-4..1"]) == 1
    assert "ranges need --random N" in capsys.readouterr().err


def test_all_wrong_settings_are_named_before_anything_starts(tiny_recipe, tmp_path, capsys):
    words = [f"{RATE}=0.1,fast", "train.epoks=1,2", "modl.x=3", "schedule.warmup_epochs=0.5,7"]
    assert main(["sweep", str(tiny_recipe), *words, "--output", str(tmp_path / "s")]) == 1
    said = capsys.readouterr().err
    for problem in ("got 'fast'", "unknown key 'epoks'", "unknown section [modl]", "got 7.0"):
        assert said.count(problem) == 1, said
    assert not (tmp_path / "s").exists()
    words = ["run.push_to=user/x", f"{RATE}=0.1,0.2"]
    assert main(["sweep", str(tiny_recipe), *words, "--output", str(tmp_path / "s")]) == 1
    assert "must not all be pushed" in capsys.readouterr().err


def test_names_follow_from_the_settings_and_stay_apart():
    assert run_name({RATE: "0.1", "train.epochs": "2"}) == "learning_rate-0.1__epochs-2"
    assert run_name({"optimizer.name": '"sgd"', "schedule.name": '"step"'}) == (
        "optimizer_name-sgd__schedule_name-step"
    )
    assert run_name({RATE: "1e+30"}) == "learning_rate-1e30" and run_name({}) == "run"
    values = ["[1, 1]", "[11]", "[1.1]", "-1", "1", '"a b"', '"a.b"', '""']
    names = {run_name({"model.x": value}) for value in values}
    assert len(names) == len(values)
    long = [run_name({f"model.{'x' * 90}{i}": str(i), "model.y": "z" * 200}) for i in range(3)]
    assert len(set(long)) == 3 and max(map(len, long)) < 140


def test_a_longer_grid_finds_its_runs_again(tiny_recipe, tmp_path):
    def names(values):
        runs = plan_runs(str(tiny_recipe), grid(parse_tried([f"{RATE}={values}"])), folder=tmp_path)
        return [each.name for each in runs]

    assert set(names("0.1,0.2")) < set(names("0.3,0.2,0.1"))


def test_each_lane_has_gpus_or_threads_of_its_own(monkeypatch):
    lanes = Lanes(parallel=2, processes=2, gpus=("0", "3", "GPU-a", "7"))
    assert lanes.environment(1) == {"CUDA_VISIBLE_DEVICES": "GPU-a,7"}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(Lanes(parallel=999).environment(5)["OMP_NUM_THREADS"]) == 1
    assert Lanes().environment(0) == {}


def test_a_failing_run_is_named_and_the_others_go_on(tiny_recipe, tmp_path, monkeypatch, *, capsys):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "my sweep"
    words = ["sweep", str(tiny_recipe), "optimizer.learning_rate=1e30,0.05", "train.epochs=1"]
    words += ["--output", str(folder), "--quiet", "--json"]
    assert main([*words, "--only-recipes"]) == 0
    assert {path.name for path in folder.iterdir()} == {"recipes", "sweep.json"}
    assert main(words) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["name"], good["state"]) == ("learning_rate-0.05", "finished")
    assert (bad["name"], bad["state"]) == ("learning_rate-1e30", "diverged")
    first, second = json.loads((folder / "sweep.json").read_text())["runs"]
    assert first["status"] == "failed" and first["error"].startswith("the training loss must be")
    assert second["status"] == "finished"
    recipe = folder / good["name"] / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nepochs = 1.0", "\nepochs = 9.0"))
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "must go on with their recipes" in said and "train.epochs: 9.0 -> 1.0" in said


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a killed sweep leaves its runs alone"
)
def test_a_killed_sweep_goes_on_with_the_same_results(tiny_recipe, tmp_path):
    def command(folder):
        words = ["sweep", tiny_recipe, "run.seed=1,2", "train.epochs=40", "--output", folder]
        words += ["train.checkpoint_every_epochs=1", "train.evaluate_every_epochs=5"]
        return [sys.executable, "-m", "convzoo", *map(str, words), "--parallel", "2"]

    environment = os.environ | ENVIRONMENT
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        with subprocess.Popen(command(killed), env=environment) as process:
            steps = {}
            while len(steps) < 2 or max(steps.values()) < (30 if number == signal.SIGKILL else 90):
                time.sleep(0.1)
                logs = killed.glob("*/metrics.jsonl")
                steps = {log: (read_metrics(log) or [{"step": 0}])[-1]["step"] for log in logs}
            process.send_signal(number)
            assert process.wait(120) == status
        time.sleep(5)  # the runs of a killed sweep save, and end
    subprocess.run(command(killed), env=environment, check=True)
    subprocess.run(command(whole), env=environment, check=True)
    for name in ("seed-1", "seed-2"):
        weights = [f / name / "model" / "model.safetensors" for f in (killed, whole)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    statuses = [run["status"] for run in json.loads((killed / "sweep.json").read_text())["runs"]]
    assert statuses == ["finished", "finished"]
