"""What a run shows in TensorBoard: tags in groups, hyper-parameters, looks of monitors, images.

Scalars are in the groups train/, eval/ and data/. The recipe is on the page HParams, with the last
values of METRICS. Each monitor has a group of its own, `monitor_<name>/`: numbers by layer, and for
gradients and shares of mixing histograms.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METRICS = ("eval/top1_accuracy", "eval/loss", "train/loss")
IN_DATA = {"data_wait_fraction": "data/wait_fraction"}
LOG10_2 = math.log10(2)


def tag_of(key: str) -> str:
    """Return the tag of a key of metrics.jsonl."""
    if key.startswith("eval_"):
        return f"eval/{key.removeprefix('eval_')}"
    return IN_DATA.get(key, f"train/{key}")


def write_settings(writer: Any, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the settings of a recipe as hyper-parameters.

    Args:
        writer: a SummaryWriter of PyTorch, as in all of these functions.
        config: sections of the recipe.
    """
    from torch.utils.tensorboard.summary import hparams

    settings = {
        f"{section}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
        for section, table in config.items()
        for key, value in table.items()
    }
    experiment, start, _ = hparams(settings, dict.fromkeys(METRICS, 0.0))
    for summary in (experiment, start):
        writer.file_writer.add_summary(summary)


def write_end(writer: Any) -> None:
    """Write that the run has come to its end."""
    from torch.utils.tensorboard.summary import hparams

    writer.file_writer.add_summary(hparams({}, {})[2])


def write_look(writer: Any, line: Mapping[str, Any]) -> None:
    """Write a line of monitors.jsonl."""
    step = line["step"]
    for monitor, layers in line.items():
        if monitor == "mixing":
            shares = np.array(layers["share"])
            writer.add_histogram("monitor_mixing/share", shares, step, bins=20)
        elif isinstance(layers, dict):
            for tag, number in _numbers(monitor, layers):
                writer.add_scalar(tag, number, step)
    for layer, values in line.get("gradients", {}).items():
        if values.get("counts"):
            _write_histogram(writer, f"monitor_gradients_log10/{layer}", values, step=step)


def write_images(writer: Any, paths: Iterable[Path], step: int) -> None:
    """Write images, each under the name of its file."""
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.add_image(f"monitors/{path.stem}", pixels, step, dataformats="HWC")


def _numbers(monitor: str, layers: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for layer, values in layers.items():
        for key, value in values.items():
            if isinstance(value, int | float) and key not in ("low", "finite"):
                yield f"monitor_{monitor}/{layer}/{key}", value


def _write_histogram(writer: Any, tag: str, values: Mapping[str, Any], *, step: int) -> None:
    """Write the histogram of log10 |gradient|; zeros have none."""
    counts = np.array(values["counts"], dtype=float)
    edges = LOG10_2 * (values["low"] + np.arange(len(counts) + 1))
    centres = (edges[:-1] + edges[1:]) / 2
    writer.add_histogram_raw(
        tag,
        min=edges[0],
        max=edges[-1],
        num=counts.sum(),
        sum=counts @ centres,
        sum_squares=counts @ centres**2,
        # The first bucket begins at the least value that a double has: hence an empty one.
        bucket_limits=edges.tolist(),
        bucket_counts=[0.0, *counts.tolist()],
        global_step=step,
    )
