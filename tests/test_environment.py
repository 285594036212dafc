import datetime
import hashlib
import json
import platform

import torch

from convzoo.environment import describe_environment, file_sha256, now, write_json


def test_the_environment_names_what_ran():
    environment = describe_environment()
    assert environment["python"] == platform.python_version()
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["processor"]
    json.dumps(environment)


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
