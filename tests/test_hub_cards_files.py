"""Files that are written whole or not at all."""

import os

import pytest

from hub_cards.files import json_text, replace_bytes, replace_text


def test_a_file_is_replaced_in_one_step_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "README.md"
    replace_text(path, "old\n")
    path.chmod(0o640)
    with path.open() as reader:
        replace_text(path, "new \u00b1\n")
        assert reader.read() == "old\n"  # who reads it meanwhile sees the old one, whole
    assert path.read_bytes() == "new \u00b1\n".encode() and os.listdir(tmp_path) == ["README.md"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "card.md"
    replace_text(path, "old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_bytes(path, b"new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["card.md"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to("real.md")
    replace_text(tmp_path / "link.md", "new")
    assert (tmp_path / "link.md").is_symlink() and (tmp_path / "real.md").read_text() == "new"


def test_json_has_finite_numbers_only():
    assert json_text({"a": [1, 0.5]}) == '{\n  "a": [\n    1,\n    0.5\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": float("nan")})
