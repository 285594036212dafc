"""What every program here needs before it asks the Hub for something: a name and a token."""

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hub_cards.hub.push_errors import PushError


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
    """A client with the token that huggingface_hub finds.

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
