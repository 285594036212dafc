"""Show a person what matters of an error."""


def user_message(error: Exception) -> str:
    """Return the message of an error without the traceback that a DataLoader worker adds."""
    text = str(error).strip()
    marker = f"\n{type(error).__name__}: "
    return text.rpartition(marker)[2] if "in DataLoader worker" in text else text
