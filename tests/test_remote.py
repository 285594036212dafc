"""Patience with a Hub that fails while a dataset is opened; test_data_split has that of reading."""

import math

import pytest

from convzoo.data import remote
from tests.support.hub_server import HubServer
from tests.support.images import coloured_images, write_split

OPENS = """
import logging, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.02))  # the client's own patience grows to 8 s
logging.basicConfig(format="%(message)s", level=logging.WARNING)
from convzoo.data import remote
from convzoo.data.opening import open_split
remote.RETRY_SECONDS = (0.01, 0.02)
try:
    source = open_split("user/many", "train")
    print(source.num_rows, source.card["pretty_name"], source.read_labels().tolist())
except ConnectionError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_split(folder / "many", "train", *coloured_images(4, seed=0))
    (folder / "many" / "README.md").write_text("---\npretty_name: Many\n---\n")
    with HubServer(folder / "hub", {"hf_user": "user"}) as server:
        server.add_repo("datasets", "user/many", folder / "many")
        yield server


def test_failures_that_pass_do_not_end_the_opening_of_a_dataset(hub, tmp_path):
    faults = [
        hub.fail("GET /api/datasets/user/many/revision", status=502),
        hub.fail("GET /api/datasets/user/many/revision", drop_after=0, skip=1),
        hub.fail("GET /datasets/user/many/resolve/[^m].*/README.md", status=504, times=8),
        hub.fail("GET /storage/.*train-00001", drop_after=50),
    ]
    done = hub.run("-c", OPENS, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "4 Many [0, 1, 2, 0]"
    assert all(fault.times < 8 for fault in faults) and faults[0].times == faults[1].times == 0
    lines = [line for line in done.stderr.splitlines() if "trying again" in line]
    assert "dataset user/many: HTTP status 502; trying again in 0.01 s" in lines
    assert any("dataset user/many: RemoteProtocolError: peer closed" in line for line in lines)


def test_a_hub_that_stays_down_is_one_line_and_no_question_of_access(hub, tmp_path):
    fault = hub.fail("GET /api/datasets/user/many/revision", status=502, times=math.inf)
    done = hub.run("-c", OPENS, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
    fault.times = 0
    assert done.stdout.strip() == (
        "the Hub could not be reached for the dataset 'user/many'; try again, or give a folder. "
        "(HTTP status 502)"
    )
    assert done.stderr.count("trying again") == 2


def test_nothing_is_tried_again_that_cannot_pass(monkeypatch):
    def failing(error):
        def action():
            tries.append(error)
            raise error

        return action

    monkeypatch.setattr(remote, "RETRY_SECONDS", (0, 0, 0))
    wrapped = ConnectionError("no answer")
    wrapped.__cause__ = TimeoutError("late")
    for error, expected in (
        (FileNotFoundError("gone"), 1),
        (ValueError("damaged"), 1),
        (ConnectionResetError("reset"), 4),
        (wrapped, 4),
    ):
        tries = []
        with pytest.raises(type(error)):
            remote.patiently("something", failing(error))
        assert len(tries) == expected
    monkeypatch.setattr(remote, "is_offline_mode", lambda: True)
    assert not remote.may_pass(wrapped)
    assert remote.why(wrapped) == "TimeoutError: late"
