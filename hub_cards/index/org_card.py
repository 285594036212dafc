"""Write the card of a user or organization: README.md of the Space USER/README, with tables."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from hub_cards.card.validation import FRONT_MATTER, RULES
from hub_cards.files import replace_bytes
from hub_cards.index.tables import Table, put_tables, render_tables

REQUIRED = ("title", "emoji", "colorFrom", "colorTo", "sdk")


def write_org_card(path: str | Path, tables: Sequence[Table], *, check: bool = False) -> bool:
    """Write the README.md of a Space USER/README, which is the card of a user or organization.

    A file that exists keeps its own words; only its tables are brought up to date.

    Args:
        path: the file.
        tables: as `make_tables` gives them.
        check: write nothing.

    Returns:
        Whether the file was up to date already.

    Raises:
        OSError: if it cannot be read or written.
        ValueError: if its markers are not there once each, or the card breaks a rule of the Hub.
    """
    path = Path(path)
    template = Path(__file__).with_name("org_card.md")
    old = path.read_bytes() if path.is_file() else None
    text = (old or template.read_bytes()).decode("utf-8")
    card = put_tables(text, render_tables(tables), where=path)
    problems = org_card_problems(card)
    if problems:
        raise ValueError(
            f"the card {path} breaks {len(problems)} rule(s), and was not written:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    if card.encode() != old and not check:
        replace_bytes(path, card.encode())
    return card.encode() == old


def org_card_problems(card: str) -> list[str]:
    """List everything that the Hub would not accept in an organization card.

    Args:
        card: the text of its README.md.

    Returns:
        One sentence for each problem, none for a good card.
    """
    match = FRONT_MATTER.match(card.replace("\r\n", "\n"))
    try:
        metadata = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        return [f"the metadata must be valid YAML; {' '.join(str(error).split())}"]
    if not isinstance(metadata, dict):
        return ["the card must start with keys and values between two lines of ---"]
    problems = [f"metadata must have {key}" for key in REQUIRED if not metadata.get(key)]
    for key, colours in RULES["space"]["choices"].items():
        allowed = ["static"] if key == "sdk" else colours
        if metadata.get(key) and metadata[key] not in allowed:
            problems.append(f"{key} must be one of {', '.join(allowed)}; got {metadata[key]!r}")
    if not isinstance(metadata.get("pinned", False), bool):
        problems.append(f"pinned must be true or false; got {metadata['pinned']!r}")
    return problems
