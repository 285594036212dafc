"""Try again after errors of the Hub that may pass, and say what a person can do about others."""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its own client

logger = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0  # doubles with each attempt
MAX_WAIT_SECONDS = 300  # also where the Hub asks for more
# 412 says that the Hub has changed since it was compared.
TRANSIENT_STATUSES = (408, 412, 429, 500, 502, 503, 504)
TRANSIENT_ERRORS = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    ConnectionError,
    TimeoutError,
    json.JSONDecodeError,  # the page of a gateway instead of an answer
)

# What contact with the Hub raises, also where something breaks off on the way.
CONTACT_ERRORS = (OSError, ValueError, RuntimeError, httpx.HTTPError)

EXIT_CODES = {
    "folder": 1,
    "name": 2,
    "token": 3,
    "permission": 4,
    "taken": 5,
    "edited": 6,
    "network": 7,
    "gated": 8,
    "refused": 9,
}


class PushError(Exception):
    """A push that was given up. The files on the Hub are those of before, or all of the new ones.

    Attributes:
        reason: "folder" (not complete, or its card breaks a rule), "name" (no valid id or branch),
            "token" (none, or the Hub does not know it), "permission" (read-only token or foreign
            namespace), "taken" (the name is), "edited" (the card, on the Hub, by hand), "network"
            (not reached, or failing again and again), "gated" (terms were not accepted) or
            "refused" (by the Hub, for its own reason).
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    @property
    def exit_code(self) -> int:
        """The status with which a command ends."""
        return EXIT_CODES[self.reason]


def persist(action: Callable[[], T], explain: Callable[[Exception], PushError]) -> T:
    """Call something that asks the Hub, and again after errors that may pass.

    Args:
        action: what to call; its result is returned.
        explain: makes of the error that it ends with what to tell a person.

    Raises:
        PushError: that one, or one of the action's own.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, CONTACT_ERRORS) and is_transient(root(error))
        ),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=lambda state: wait_seconds(_error_of(state), state.attempt_number),
        before_sleep=_announce,
        sleep=time.sleep,
        reraise=True,
    )
    try:
        return retrying(action)
    except CONTACT_ERRORS as caught:
        raise explain(root(caught)) from caught


def _error_of(state: tenacity.RetryCallState) -> Exception:
    """The error that an attempt ended with; tenacity asks about those only that raised one."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Exception)
    return root(error)


def _announce(state: tenacity.RetryCallState) -> None:
    wait = state.next_action.sleep if state.next_action else 0.0
    following = f"trying again in {wait:g} s ({state.attempt_number + 1} of {ATTEMPTS})"
    logger.info(f"{cause(_error_of(state))}; {following}")


def failure(
    error: Exception, repo_id: str, *, revision: str, endpoint: str, user: str
) -> PushError:
    """Say what a person can do about an error of the Hub or of its client.

    Args:
        error: what ended the push.
        repo_id: where the push went.
        revision: and to which branch.
        endpoint: address of the Hub.
        user: whose token it was.
    """
    status, said = getattr(getattr(error, "response", None), "status_code", None), cause(error)
    if isinstance(error, GatedRepoError):
        return PushError(
            "gated",
            f"{repo_id} is gated: accept its terms on {endpoint}/{repo_id} and push again; {said}",
        )
    if isinstance(error, OfflineModeIsEnabled):
        return PushError("network", "HF_HUB_OFFLINE=1 forbids all contact; unset it to push")
    if is_transient(error):
        return PushError(
            "network",
            f"{endpoint} was not reached, or failed again and again, the last time with: {said}. "
            "Push again later; what has arrived is not sent twice.",
        )
    if isinstance(error, RevisionNotFoundError):
        return PushError("name", f"the revision must be a branch; got {revision!r}")
    if status == 401:
        return PushError("token", f"the Hub does not accept the token; log in again ({said})")
    if status == 403:
        return PushError(
            "permission", f"the token of {user} may not write to {repo_id} there; {said}"
        )
    if status == 409:
        return PushError(
            "taken", f"{repo_id} is taken by something that this token may not see; {said}"
        )
    return PushError("refused", f"the Hub refused the push to {repo_id}: {said}")


def root(error: Exception) -> Exception:
    """Unwrap an error that the client has wrapped, as it does for uploads."""
    inner = error.__cause__
    return inner if type(error) is RuntimeError and isinstance(inner, Exception) else error


def is_transient(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUSES
    if re.search(r"client error \((?!408|412|429)4\d\d", str(error)):
        return False  # from Xet, which makes a ConnectionError of it
    return isinstance(error, TRANSIENT_ERRORS) and not isinstance(error, OfflineModeIsEnabled)


def wait_seconds(error: Exception, attempt: int) -> float:
    """Choose how long to wait after an error: as the Hub asks, or twice as long each time.

    Args:
        error: the transient error.
        attempt: how many attempts have failed, at least 1.
    """
    asked = error.response.headers.get("Retry-After", "") if hasattr(error, "response") else ""
    wait = float(asked) if asked.isdigit() else FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
    return min(wait, MAX_WAIT_SECONDS)


def cause(error: Exception) -> str:
    """Describe an error in one line."""
    if isinstance(error, HfHubHTTPError):
        said = f"HTTP {error.response.status_code} {error.server_message or ''}"
    else:
        said = f"{type(error).__name__}: {error}"
    return " ".join(said.split())
