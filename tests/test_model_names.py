import hashlib
import re

import pytest

from convzoo.__main__ import main
from convzoo.model_names import file_of_model, loading_model, weights_sha256

COMMANDS = {
    "evaluate": ["--data", "data/fashion-mnist"],
    "robustness": ["--data", "data/fashion-mnist"],
    "predict": ["data/photos/cow.jpg"],
    "export": ["exported"],
    "symmetry": [],
    "benchmark": [],
}


def refused(name):
    with pytest.raises(FileNotFoundError) as caught, loading_model(name):
        raise AssertionError("it was loaded")
    return str(caught.value)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path):
    assert "holds nothing" in refused(str(tmp_path))
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    said = refused(str(tmp_path))
    assert f"{tmp_path} holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ..." in said


@pytest.mark.parametrize("name", ["runs/mine/model", "./model", "~/model", "my models/one"])
def test_a_path_to_nothing_is_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"there is no folder {tmp_path}" in refused(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "that is a file" in refused(str(tmp_path / "model.safetensors"))


def test_an_error_of_a_library_names_the_model():
    said = r"^the model user/name cannot be loaded\. no network$"
    with pytest.raises(OSError, match=said), loading_model("user/name"):
        raise OSError("no network")
    with pytest.raises(OSError, match=r"^user/name is not there$"), loading_model("user/name"):
        raise OSError("user/name is not there")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_a_mistyped_folder(command, capsys):
    assert main([command, "runs/no/model", *COMMANDS[command]]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: a model must be a folder .* no folder .*\n", said)


def test_a_file_of_a_folder_is_found_or_is_not_there(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    assert file_of_model(str(tmp_path), "model.safetensors") == tmp_path / "model.safetensors"
    assert weights_sha256(str(tmp_path)) == hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "model.safetensors").unlink()
    assert file_of_model(str(tmp_path), "config.json") is None is weights_sha256(str(tmp_path))
