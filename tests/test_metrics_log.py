import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convzoo.files import write_text
from convzoo.training.curves import plot_curves
from convzoo.training.metrics_log import MetricsLog, read_metrics, set_evaluations_aside


def test_a_resumed_log_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep_until=0)
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / 3)
    with path.open("a") as handle:
        handle.write('{"step": 4, "lo')  # cut off by a crash
    MetricsLog(path, keep_until=2).write(step=3, loss=0.25)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.333333},
        {"step": 2, "loss": 0.333333},
        {"step": 3, "loss": 0.25},
    ]


def test_evaluations_of_other_images_are_kept_under_another_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    set_evaluations_aside(path)
    assert not path.exists()
    log = MetricsLog(path, keep_until=0)
    log.write(step=1, loss=3.0)
    log.write(step=1, eval_loss=2.0, eval_top1_accuracy=0.5)
    for _ in range(2):  # a kill after the first time
        set_evaluations_aside(path)
        assert read_metrics(path) == [
            {"step": 1, "loss": 3.0},
            {"step": 1, "former_eval_loss": 2.0, "former_eval_top1_accuracy": 0.5},
        ]


def test_an_evaluation_that_comes_again_is_logged_once(tmp_path):
    """A kill after the evaluation of step 2 was logged, before the checkpoint that knows of it."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep_until=0)
    log.write(step=1, eval_loss=3.0)
    log.write(step=2, loss=1.0)
    log.write(step=2, eval_loss=2.0)
    MetricsLog(path, keep_until=2)
    assert len(read_metrics(path)) == 3
    MetricsLog(path, keep_until=2, evaluates_again=True).write(step=2, eval_loss=2.0)
    assert [line["step"] for line in read_metrics(path) if "eval_loss" in line] == [1, 2]
    assert [line["step"] for line in read_metrics(path) if "loss" in line] == [2]


def test_lines_that_are_damaged_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 0.5}\n'
    rest = b'5\nnull\n[1]\n{"loss": 1}\n{"step": "x"}\n\xff\xfe\0\n{"step": 2, "lo\n' + b"[" * 99999
    path.write_bytes(rest + b"\n" + good)
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    MetricsLog(path, keep_until=5)
    assert path.read_bytes() == good


def test_only_one_process_writes(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", 0, enabled=False).write(step=1)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_full_disk_is_named_with_the_file(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"metrics\.jsonl could not be written; .*No space left"):
        log.write(step=1)
    (tmp_path / "recipe.toml.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"recipe\.toml could not be written; .*No space left"):
        write_text(tmp_path / "recipe.toml", "text")


def test_lines_are_valid_json_with_rounded_numbers_at_any_depth(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.write(step=1, loss=math.nan, layers={"a": {"norms": [1 / 3, math.inf], "count": 2}})
    expected = {"step": 1, "loss": None, "layers": {"a": {"norms": [0.333333, None], "count": 2}}}
    assert read_metrics(tmp_path / "metrics.jsonl") == [expected]


GROWTH = """
import torch
from convzoo.training.metrics_log import memory_gb

before = memory_gb()
block = torch.ones(50_000_000, device="cuda" if torch.cuda.is_available() else "cpu")
print(memory_gb() - before)
"""


def test_memory_grows_by_what_is_allocated():
    """In a process of its own: this one may have freed memory to spare."""
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(0.2, abs=0.05)


def curve_lines(keys):
    train = ("loss", "learning_rate", "images_per_second", "data_wait_fraction", "memory_gb")
    validation = ("eval_loss", "eval_top1_accuracy", "eval_top5_accuracy")
    lines = []
    for step in range(1, 30):
        values = {key: 0.5 / step**0.5 for key in train if key in keys}
        lines.append({"step": step, "epoch": step / 10, **values})
        if step % 10 == 0:
            values = {key: 0.9 - 1 / step for key in validation if key in keys}
            lines.append({"step": step, "epoch": step / 10, **values})
    return lines


def coloured(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.ptp(pixels, axis=2) > 60  # matplotlib's blue and orange


def test_each_logged_quantity_adds_its_curve_to_the_image(tmp_path):
    keys = ["loss", "eval_loss", "eval_top1_accuracy", "eval_top5_accuracy", "learning_rate"]
    keys += ["images_per_second", "data_wait_fraction", "memory_gb"]
    plot_curves(curve_lines(keys), "a run", tmp_path / "all.png")
    full = coloured(tmp_path / "all.png")
    rows, columns = np.array_split(full, 2), 3
    panels = [panel for row in rows for panel in np.array_split(row, columns, axis=1)]
    assert all(panel.sum() > 150 for panel in panels)
    plot_curves(curve_lines(keys[:1]), "only a loss", tmp_path / "one.png")
    assert 150 < coloured(tmp_path / "one.png").sum() < full.sum() / 4
