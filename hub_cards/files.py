"""Write files whole or not at all, and JSON in one form."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

Record = dict[str, Any]  # a JSON object or a TOML table


def replace_bytes(path: Path, content: bytes) -> None:
    """Put a file in place of another in one step: a reader sees the old one or the new one.

    Args:
        path: the file; where it is a link, what the link points to is replaced.
        content: all of it.
    """
    path = Path(os.path.realpath(path))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
        if path.is_file():
            aside.chmod(path.stat().st_mode & 0o7777)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replace a file by text in UTF-8 with the same line ends on every system."""
    replace_bytes(path, text.encode("utf-8"))


def json_text(content: object) -> str:
    """Write JSON for people and programs: indented, finite numbers only, a line end at the end."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
