import datetime
import hashlib
import json
import platform
import subprocess

import pytest
import torch

from convzoo.environment import describe_environment, now
from convzoo.files import file_sha256, write_json
from tests.support.clients import ROOT


def test_the_environment_names_what_ran():
    environment = describe_environment()
    assert environment["python"] == platform.python_version()
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["processor"]
    json.dumps(environment)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="in a checkout only")
def test_the_commit_is_that_of_the_checkout():
    git = ["git", "-C", str(ROOT)]
    head, changes = (
        subprocess.run([*git, *call], capture_output=True, text=True, check=True).stdout.strip()
        for call in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    assert describe_environment()["commit"] == head + ("-dirty" if changes else "")


def test_times_are_utc():
    stamp = datetime.datetime.fromisoformat(now())
    assert stamp.utcoffset() == datetime.timedelta(0)
    assert abs(stamp - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(seconds=5)


def test_files_are_hashed_and_json_is_written_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
