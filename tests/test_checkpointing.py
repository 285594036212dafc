import json
import shutil
import signal

import pytest
import torch

from convzoo.files import file_sha256, remove_folder, write_folder
from convzoo.training.checkpointing import latest_checkpoint, load_state, recover, save_checkpoint
from tests.support.clients import run

SCRIPT_ON_A_FULL_DISK = """
import pathlib, resource, sys
import torch
from safetensors.torch import save_file
from convzoo.training.checkpointing import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # no file may grow beyond 10 kB

def fill(aside):
    if sys.argv[2] == "safetensors":
        save_file({"weight": torch.zeros(5000)}, aside / "weights")
    elif sys.argv[2] == "bytes":
        (aside / "weights").write_bytes(b"x" * 20_000)

state = {"x": torch.zeros(50_000)} if sys.argv[2] == "state" else {}
try:
    save_checkpoint(pathlib.Path(sys.argv[1]), 9, fill=fill, state=state, keep=2)
except OSError as error:
    print(error)
"""


def fill(aside):
    (aside / "weights").write_bytes(b"w" * 1000)
    (aside / "examples").mkdir()
    (aside / "examples" / "one.png").write_bytes(b"p" * 10)


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (5, 20, 100):
        state = {"value": torch.full((3,), float(step))}
        save_checkpoint(folder, step, fill=fill, state=state, keep=2)
    return folder


def test_the_newest_are_kept_and_the_newest_is_found(checkpoints):
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000020", "step_00000100"]
    newest = latest_checkpoint(checkpoints)
    assert newest.name == "step_00000100"
    state = load_state(newest)
    assert state["step"] == 100 and state["value"].tolist() == [100.0] * 3


@pytest.mark.parametrize(
    "name", ["weights", "training_state.pt", "manifest.json", "examples/one.png"]
)
@pytest.mark.parametrize("damage", ["cut", "changed", "deleted"])
def test_a_damaged_newest_checkpoint_is_skipped_and_named(checkpoints, name, *, damage, caplog):
    path = checkpoints / "step_00000100" / name
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if damage == "cut" else b"?" + data[1:])
    assert latest_checkpoint(checkpoints).name == "step_00000020"
    assert "step_00000100 is skipped" in caplog.text


def test_a_crash_while_writing_leaves_no_trace(checkpoints):
    def crash(aside):
        fill(aside)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(checkpoints, 200, fill=crash, state={}, keep=2)
    assert latest_checkpoint(checkpoints).name == "step_00000100"
    save_checkpoint(
        checkpoints, 200, fill=fill, state={}, keep=2
    )  # and the remains do not disturb the next try
    assert latest_checkpoint(checkpoints).name == "step_00000200"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000100", "step_00000200"]


@pytest.mark.parametrize("kind", ["bytes", "safetensors", "state"])
def test_a_full_disk_is_an_error_that_leaves_the_last_checkpoint(kind, checkpoints, tmp_path):
    script = tmp_path / "full.py"
    script.write_text(SCRIPT_ON_A_FULL_DISK)
    done = run(script, checkpoints, kind)
    assert "step_00000009 could not be written, nothing there changed" in done.stdout
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000020", "step_00000100"]
    assert latest_checkpoint(checkpoints).name == "step_00000100"


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, lambda aside: (aside / "old").write_text("1"))
    write_folder(folder, lambda aside: (aside / "new").write_text("2"))
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None


def test_no_whole_checkpoint_is_an_error_that_names_each(checkpoints):
    for path in checkpoints.glob("*/weights"):
        path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="step_00000100: weights was .*; step_00000020: weights"):
        latest_checkpoint(checkpoints)


def test_what_a_kill_leaves_is_put_back_or_removed(checkpoints):
    (checkpoints / "step_00000100").rename(checkpoints / ".step_00000100.old")
    shutil.copytree(checkpoints / "step_00000020", checkpoints / ".step_00000020.old")
    (checkpoints / ".step_00000120.partial").mkdir()
    recover(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000020", "step_00000100"]
    assert latest_checkpoint(checkpoints).name == "step_00000100"
    recover(checkpoints.parent / "none")


def test_checkpoints_of_a_run_that_was_not_continued_go(checkpoints):
    path = checkpoints / "step_00000100" / "weights"
    path.write_bytes(b"damaged")
    assert latest_checkpoint(checkpoints).name == "step_00000020"
    save_checkpoint(checkpoints, 60, fill=fill, state={}, keep=1)
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000060"]


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, lambda aside: (aside / "old").write_text("1"))
    folder.rename(tmp_path / ".model.old")  # what a kill at the worst moment leaves

    def fail(aside):
        raise OSError("disk full")

    with pytest.raises(OSError, match="nothing there changed"):
        write_folder(folder, fail)
    assert (folder / "old").read_text() == "1"


KILLED_REMOVAL = """
import os, pathlib, signal, sys
from convzoo.training import checkpointing

count, kill_after = 0, int(sys.argv[2])

def die_later(event, arguments):  # of Python's audit: before each file or folder is removed
    global count
    if event in ("os.remove", "os.rmdir"):  # shutil removes relative to an open folder
        count += 1
        if count > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die_later)
checkpointing.save_checkpoint(
    pathlib.Path(sys.argv[1]), 200, fill=lambda aside: (aside / "w").touch(), state={}, keep=2
)
"""


@pytest.mark.parametrize("files", [0, 1, 3])
def test_a_kill_while_an_old_checkpoint_goes_leaves_no_half_under_its_name(
    checkpoints, files, tmp_path
):
    script = tmp_path / "killed.py"
    script.write_text(KILLED_REMOVAL)
    assert run(script, checkpoints, files, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in checkpoints.glob(".*.removed")] == [".step_00000020.removed"]
    left = sorted(checkpoints.glob("step_*"))
    assert [path.name for path in left] == ["step_00000100", "step_00000200"]
    for path in left:
        for name, sha256 in json.loads((path / "manifest.json").read_text()).items():
            assert file_sha256(path / name) == sha256
    recover(checkpoints)
    assert sorted(checkpoints.iterdir()) == left


def test_remains_of_a_removal_do_not_disturb_the_next(tmp_path):
    for name in ("step", ".step.removed"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "file").touch()
    remove_folder(tmp_path / "step")
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_is_no_table_is_a_damaged_checkpoint(checkpoints, caplog):
    (checkpoints / "step_00000100" / "manifest.json").write_text("[1]")
    assert latest_checkpoint(checkpoints).name == "step_00000020"
    assert "manifest.json is no table of hashes" in caplog.text
