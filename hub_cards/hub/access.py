"""Open the Hub: a valid name, a token, and who may write with it."""

from dataclasses import dataclass

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # a lazy name

from hub_cards.hub.push_errors import PushError


@dataclass(frozen=True)
class Account:
    """The owner of a token, with the namespaces that it may use: its own, its organizations'."""

    name: str
    namespaces: tuple[str, ...]

    def owns(self, namespace: str) -> bool:
        """Tell whether a namespace is one of these; the Hub ignores case there."""
        return namespace.lower() in [name.lower() for name in self.namespaces]


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no id of the form user/name.

    Raises:
        PushError: with reason "name".
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError("name", f"{error} It must look like user/name.") from error
    if "/" not in repo_id:
        raise PushError("name", f"the id must look like user/name; got {repo_id!r}")


def open_hub(anonymous: bool) -> HfApi:
    """Make a client with the token that huggingface_hub finds.

    Args:
        anonymous: whether it may be had without a token, too.

    Raises:
        PushError: with reason "token".
    """
    try:
        token = get_token()
    except Exception as error:  # trusted publishing in CI raises errors of its own
        raise PushError("token", f"no token could be had; {error}") from error
    if token is None and not anonymous:
        raise PushError(
            "token",
            "a token is needed to push: run `hf auth login`, or set HF_TOKEN. Make one with "
            "write access on https://huggingface.co/settings/tokens.",
        )
    if token is not None and not (token.isascii() and token.isprintable()):
        # The HTTP client would show it in its message.
        raise PushError("token", "the token has characters that no token has; log in again")
    return HfApi(token=token or False)


def log_in(api: HfApi) -> Account:
    """Ask whose token it is, and refuse one that may only read.

    Raises:
        PushError: with reason "permission".
    """
    who = api.whoami()
    access = (who.get("auth") or {}).get("accessToken") or {}
    if access.get("role") == "read":
        raise PushError(
            "permission",
            f"the token of {who['name']} may only read; make one with write access on "
            "https://huggingface.co/settings/tokens.",
        )
    return Account(who["name"], (who["name"], *(group["name"] for group in who.get("orgs", []))))
