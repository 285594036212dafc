"""Attempts and waits of contact with the Hub."""

import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hub_cards.hub import push_errors
from hub_cards.hub.push_errors import PushError, persist


def http_error(status, **headers):
    request = httpx.Request("GET", "https://huggingface.co")
    response = httpx.Response(status, headers=headers, request=request)
    return HfHubHTTPError("said", response=response)


def explain(error):
    return PushError("network", f"ended with {error}")


@pytest.fixture
def waits(monkeypatch):
    """What is waited for, in seconds, without waiting."""
    found = []
    monkeypatch.setattr(push_errors.time, "sleep", found.append)
    return found


def failing(*errors):
    """An action that raises these errors in turn, and then returns "done"."""
    left = list(errors)

    def action():
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_waits_double_and_five_attempts_are_made(waits, caplog):
    caplog.set_level("INFO", "hub_cards")
    assert persist(failing(*(http_error(503) for _ in range(4))), explain) == "done"
    assert waits == [1, 2, 4, 8]
    assert [record.message for record in caplog.records] == [
        f"HTTP 503; trying again in {wait} s ({attempt} of 5)"
        for wait, attempt in zip("1248", (2, 3, 4, 5), strict=True)
    ]
    with pytest.raises(PushError, match="ended with"):
        persist(failing(*(ConnectionError("reset") for _ in range(5))), explain)
    assert waits == [1, 2, 4, 8] * 2


def test_the_hub_may_ask_for_another_wait_up_to_five_minutes(waits):
    asked = [http_error(429, **{"Retry-After": seconds}) for seconds in ("7", "900", "soon")]
    assert persist(failing(*asked), explain) == "done"
    assert waits == [7, 300, 4]


@pytest.mark.parametrize("error", [http_error(403), ValueError("no"), OSError("disk full")])
def test_what_cannot_pass_is_explained_at_once(waits, error):
    with pytest.raises(PushError, match="ended with") as caught:
        persist(failing(error), explain)
    assert caught.value.__cause__ is error and not waits


@pytest.mark.parametrize("error", [PushError("taken", "x"), KeyboardInterrupt(), KeyError("x")])
def test_errors_of_others_pass_as_they_are(waits, error):
    with pytest.raises(type(error)) as caught:
        persist(failing(error), explain)
    assert caught.value is error and not waits


def test_an_error_that_the_client_wraps_is_judged_by_itself(waits):
    def action():
        raise RuntimeError("upload failed") from http_error(403)

    with pytest.raises(PushError, match="ended with"):
        persist(action, explain)
    assert not waits
