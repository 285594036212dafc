"""Weights files: what is found in them, and that nothing in them is run."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convzoo.conversion.reading import read_weights


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_files_that_are_cut_off_are_refused(tmp_path, kind, share):
    path, state = tmp_path / "weights", {"fc.bias": torch.zeros(5000)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match="weights must be a whole safetensors or PyTorch file"):
        read_weights(path)


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", bytes(99)]
)
def test_files_of_another_kind_are_refused_with_their_first_bytes(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match="must be a whole") as caught:
        read_weights(tmp_path / "weights.pth")
    assert repr(content[:16]) in str(caught.value)
    assert "operand" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice would run the file


@pytest.mark.parametrize("prefix", ["model.", "net.module.", "model._orig_mod.", "module."])
def test_a_module_that_holds_the_network_is_left_out_of_names(tmp_path, prefix):
    """As in checkpoints of Lightning, and of AveragedModel, which counts its updates."""
    state = {f"{prefix}conv.weight": torch.ones(2), f"{prefix}fc.bias": torch.zeros(3)}
    torch.save({"state_dict": state | {"n_averaged": torch.tensor(3)}}, tmp_path / "last.ckpt")
    _, _, weights = read_weights(tmp_path / "last.ckpt")
    assert list(weights) == ["conv.weight", "fc.bias"]
    torch.save(state | {"loss.weight": torch.ones(3)}, tmp_path / "more.pt")
    _, _, weights = read_weights(tmp_path / "more.pt")
    assert "loss.weight" in weights and len(weights) == 3


@pytest.mark.parametrize("prefixes", [("model.", "ema_model."), ("net.", "model.module.")])
@pytest.mark.parametrize("order", [1, -1])
def test_two_networks_in_a_file_are_refused_whichever_comes_last(tmp_path, prefixes, order):
    """As a module of Lightning with an average of its network saves them."""
    names = [f"{prefix}{name}" for prefix in prefixes[::order] for name in ("a.weight", "b.bias")]
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {name: torch.ones(2) for name in names}}, path)
    with pytest.raises(ValueError, match="must hold one network; it has 2 tensors more than") as e:
        read_weights(path)
    assert f"the prefixes {', '.join(sorted(prefixes))}. Save" in str(e.value)
    torch.save({"state_dict": {name: torch.ones(2) for name in names[:3]}}, path)
    with pytest.raises(ValueError, match="has 1 tensors more than once"):
        read_weights(path)


class MakesFolder:
    """Unpickling it runs code: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_code_in_a_file_is_named_and_not_run(tmp_path, kind, protocol):
    path, marker = tmp_path / "weights.pt", tmp_path / "marker"
    content = {"epoch": MakesFolder(marker), "state_dict": {}}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        pickle.loads(path.read_bytes())
        marker.rmdir()  # it was there: the ordinary way of loading does run the code
    else:
        content["state_dict"]["fc.bias"] = torch.zeros(3)
        zipped = kind == "zip"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"weights\.pt.*the code {os.mkdir.__module__}\.mkdir,"):
        read_weights(path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_only_namespaces_are_built_and_only_while_reading(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"the code torch\.nn\.modules\.linear\.Linear, and none"):
        read_weights(tmp_path / "weights.pt")
    torch.save({"metric": np.float64(78.4)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"the code numpy.*scalar, and none"):
        read_weights(tmp_path / "weights.pt")
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace()}, tmp_path / "weights.pt"
    )
    assert read_weights(tmp_path / "weights.pt")[1:] == ("its state_dict", {"a": torch.ones(1)})
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(tmp_path / "weights.pt", weights_only=True)


def test_sources_without_weights_are_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "optimizer.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"run must hold model\.safetensors.*optimizer\.pt"):
        read_weights(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        read_weights(tmp_path / "nowhere.pt")
