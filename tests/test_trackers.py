import json
import math
import os
import sqlite3

import pytest

from convzoo.training.trackers import Trackers
from tests.support.clients import ROOT, run

# Logs steps FIRST to LAST as training does: argv = folder, names, first, last.
SCRIPT = """
import logging, sys
from pathlib import Path
import torch
from accelerate import PartialState
from PIL import Image
from convzoo.training.monitors import gradient_statistics
from convzoo.training.trackers import Trackers

logging.basicConfig(format="%(message)s")
PartialState(cpu=True)
folder, names, first, last = Path(sys.argv[1]), sys.argv[2].split(","), *map(int, sys.argv[3:])
config = {"optimizer": {"betas": [0, 1], "lr": 0.5}, "model": {"note": "long " * 1000}}
Image.new("RGB", (30, 20), "red").save(folder / "monitor_slopes.png")
gradient = torch.tensor([0, 0.5, 0.75, 1, -3])  # exponents of 2: -1, -1, 0, 1
trackers = Trackers(names, folder, run_name="tiny", config=config)
for step in range(first, last + 1):
    trackers.log(step, epoch=step / 2, loss=1 / step, memory_gb=None)
    if step % 2 == 0:
        trackers.log(step, epoch=step / 2, eval_loss=float(step), data_wait_fraction=0.25)
        trackers.look({
            "step": step,
            "gradients": {"stem": gradient_statistics(gradient), "head": {"finite": False}},
            "slopes": {"act": {"mean": step / 8}},
            "mixing": {"kind": ["mixup"] * 2, "share": [0.25, 0.75], "box": [None, None]},
        })
    trackers.look(None)
if last == 8:
    trackers.complete(last, [folder / "monitor_slopes.png"])
trackers.finish()
print("trained")
"""
LOSSES = [(step, pytest.approx(1 / step, rel=1e-5)) for step in range(1, 9)]
EVALUATIONS = [(step, step) for step in (2, 4, 6, 8)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def write_twice(folder, names):
    """Steps 1 to 6, then, as after a crash, again from step 4."""
    for first, last in ((1, 6), (4, 8)):
        assert "trained" in run("-c", SCRIPT, folder, names, first, last, cwd=ROOT).stdout


def test_a_resumed_run_has_each_point_once_in_tensorboard_and_trackio(folder):
    from tensorboard.backend.event_processing import event_accumulator

    write_twice(folder, "tensorboard,trackio")
    events = event_accumulator.EventAccumulator(
        str(folder / "tensorboard"), event_accumulator.STORE_EVERYTHING_SIZE_GUIDANCE
    )
    events.Reload()
    groups = {tag for tag in events.Tags()["scalars"] if not tag.startswith("monitor_")}
    assert groups == {"train/epoch", "train/loss", "eval/loss", "data/wait_fraction"}
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == LOSSES
    assert [(point.step, point.value) for point in events.Scalars("eval/loss")] == EVALUATIONS
    slopes = events.Scalars("monitor_slopes/act/mean")
    assert [(point.step, point.value) for point in slopes] == [(n, n / 8) for n in (2, 4, 6, 8)]
    assert events.Scalars("monitor_gradients/stem/zeros")[0].value == pytest.approx(0.2)
    check_pages(events)
    (text,) = events.Tensors("recipe/text_summary")
    assert b'"betas"' in text.tensor_proto.string_val[0]

    with sqlite3.connect(folder.parent / "trackio" / "convzoo.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    database.close()
    assert len({name for name, _, _ in rows}) == 1
    rows = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert [(step, row["loss"]) for step, row in rows if "loss" in row] == LOSSES
    assert [(step, row["eval_loss"]) for step, row in rows if "eval_loss" in row] == EVALUATIONS


def check_pages(events):
    """Histograms, images and hyper-parameters, as TensorBoard itself reads them."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    first, *others = events.Histograms("monitor_gradients_log10/stem")
    assert [first.step, *(each.step for each in others)] == [2, 4, 6, 8]
    found = dict(zip(first.histogram_value.bucket_limit, first.histogram_value.bucket, strict=True))
    filled = {round(limit, 6): count for limit, count in found.items() if count}
    right_edges = [round(math.log10(2**n), 6) for n in (0, 1, 2)]
    assert filled == dict(zip(right_edges, (2.0, 1.0, 1.0), strict=True))
    assert "monitor_mixing/share" in events.Tags()["histograms"]
    (image,) = events.Images("monitors/monitor_slopes")
    assert (image.step, image.width, image.height) == (8, 30, 20)

    def page(tag):
        content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        return HParamsPluginData.FromString(content)

    settings = page("session_start_info").session_start_info.hparams
    assert settings["optimizer.lr"].number_value == 0.5
    assert settings["optimizer.betas"].string_value == "[0, 1]"
    metrics = {info.name.tag for info in page("experiment").experiment.metric_infos}
    assert metrics == {"eval/top1_accuracy", "eval/loss", "train/loss"}
    assert page("session_end_info").session_end_info.status == 1  # STATUS_SUCCESS


def wandb_records(path):
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        length, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6],
        )
        if left < 7 or kind == 0:
            position += left
            continue
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_a_resumed_run_has_each_point_once_in_the_offline_files_of_wandb(folder):
    write_twice(folder, "wandb")
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # both are the same run
    found = {"loss": [], "eval_loss": []}
    for record in (record for file in files for record in wandb_records(file)):
        if record.WhichOneof("record_type") != "history":
            continue
        items = record.history.item
        row = {(item.nested_key or [item.key])[0]: json.loads(item.value_json) for item in items}
        for key in found.keys() & row.keys():
            found[key].append((row["_step"], row[key]))
    assert found == {"loss": LOSSES, "eval_loss": EVALUATIONS}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file size limit for processes")
def test_a_tracker_that_fails_while_training_is_left_out_and_training_goes_on(folder):
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.RLIM_INFINITY))
"""  # writing more than 16 kB into a file fails as on a full disk
    done = run("-c", limit + SCRIPT, folder, "tensorboard", 1, 200)
    assert "trained" in done.stdout
    assert done.stderr.count("tensorboard failed and is left out from now on; ") == 1
    sent = json.loads((folder / "trackers.json").read_text())["sent"]["tensorboard"]
    assert 1 < sent["loss"] < 199


def test_a_tracker_that_cannot_start_does_not_stop_training(folder, caplog):
    (folder / "tensorboard").write_text("a file where a folder should be")
    trackers = Trackers(["tensorboard"], folder, run_name="tiny", config={})
    assert "tensorboard failed and is left out from now on" in caplog.text
    trackers.log(step=1, loss=1.0)
    trackers.finish()


def test_a_missing_package_is_named_with_its_command(folder):
    with pytest.raises(ValueError, match=r"aim is not\. Run: pip install aim"):
        Trackers(["tensorboard", "aim"], folder, run_name="tiny", config={})


def test_without_trackers_nothing_is_imported_or_written(folder):
    code = """
import sys
from pathlib import Path
from convzoo.training.trackers import Trackers

trackers = Trackers((), Path(sys.argv[1]), run_name="tiny", config={})
trackers.log(1, loss=1.0)
trackers.finish()
assert not {"accelerate", "tensorboard", "trackio", "wandb"} & set(sys.modules)
"""
    run("-c", code, folder)
    assert list(folder.iterdir()) == []
