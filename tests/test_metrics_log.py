import json

import numpy as np
from PIL import Image

from convzoo.metrics_log import MetricsLog, plot_curves, read_metrics


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


def test_only_one_process_writes(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", 0, enabled=False).write(step=1)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_curves_are_a_picture_with_lines(tmp_path):
    lines = [
        {"step": s, "epoch": s / 10, "loss": 2 / s, "learning_rate": 0.1 / s} for s in range(1, 30)
    ]
    lines += [{"step": 20, "epoch": 2.0, "eval_loss": 0.3, "eval_top1_accuracy": 0.8}]
    plot_curves(lines, "a run", tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    assert pixels.shape[1] > 1000
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    assert coloured.sum() > 500  # matplotlib's blue and orange lines
