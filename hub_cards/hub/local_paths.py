"""Replace absolute paths of the author's machine in files that are to be published.

A reader can use a path relative to the project's folder, or the name of a dataset's folder; where
the author's home lies is nobody's business.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hub_cards.card.formatting import HUB_ID
from hub_cards.files import json_text, replace_text

# Keys of names, which are no paths even where they look so, as "/m/01g317" of Open Images.
NAMES = frozenset(("classes", "confusions", "id2label", "label2id", "name", "predicted", "split"))
CHECKOUT = Path(__file__).resolve().parent.parent.parent
# A path within other text; not the part of a web address or of a relative path.
WITHIN = re.compile(r"(?<![\w:/.~>\\-])(?:[A-Za-z]:\\[\w.$\\~-]+|/[\w.+@%~-]+(?:/[\w.+@%~-]*)+)")


def relative_path(path: str) -> str:
    """Give an absolute path from the current or the project's folder, elsewhere its last part.

    Args:
        path: an absolute path of this or of another system.
    """
    if PurePosixPath(path).is_absolute():
        for root in dict.fromkeys((Path.cwd(), CHECKOUT)):
            if Path(path).is_relative_to(root):
                relative = Path(path).relative_to(root).as_posix()
                # "runs/first" would be taken for a model or dataset of the Hub.
                return f"./{relative}" if HUB_ID.fullmatch(relative) else relative
        return PurePosixPath(path).name
    return PureWindowsPath(path).name


def publishable(text: str) -> str:
    """Replace the absolute paths in a text: a path, a command, or words with paths among them."""
    if "\n" not in text and _is_absolute(text):
        return relative_path(text)
    try:
        words = shlex.split(text)
    except ValueError:  # no command
        words = []
    if shlex.join(words) == text and len(words) > 1:
        return shlex.join(_publishable_word(word) for word in words)
    return WITHIN.sub(lambda match: relative_path(match[0]), text)


def _publishable_word(word: str) -> str:
    """Replace a path that stands alone, or after the = of a setting or option."""
    key, equals, value = word.partition("=")
    if equals and _is_absolute(value):
        return f"{key}={relative_path(value)}"
    return (
        relative_path(word)
        if _is_absolute(word)
        else WITHIN.sub(lambda match: relative_path(match[0]), word)
    )


def _is_absolute(text: str) -> bool:
    paths = PurePosixPath(text), PureWindowsPath(text)
    return any(path.is_absolute() and path.name for path in paths)


def make_publishable(path: Path) -> None:
    """Replace the absolute paths in a JSON or TOML file; others, and unreadable ones, stay.

    Raises:
        ValueError: if a TOML file holds a path in a form that cannot be replaced.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError:
        return  # who reads it as evidence says what is wrong with it
    replaced = _map(content)
    if replaced == content:
        return
    if path.suffix == ".toml":
        new = text
        for value in set(_strings(content)) - set(_strings(replaced)):
            for quoted in (json.dumps(value, ensure_ascii=False), f"'{value}'"):
                new = new.replace(quoted, json.dumps(publishable(value), ensure_ascii=False))
        if tomllib.loads(new) != replaced:
            raise ValueError(
                f"{path} holds absolute paths of this machine, which must not be published; write "
                "them in quotes on one line, or relative to the project's folder"
            )
        replace_text(path, new)
    else:
        replace_text(path, json_text(replaced))


def _map(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one if key in NAMES else _map(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_map(one) for one in value]
    return publishable(value) if isinstance(value, str) else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
    elif isinstance(value, str):
        yield value


def names_home(text: str) -> bool:
    """Tell whether a text names the home folder of whoever runs this."""
    home = str(Path.home())
    return len(home) > 1 and bool(re.search(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", text))
