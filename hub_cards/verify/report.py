"""Write a verification for people, and as JSON."""

import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from hub_cards.files import Record, json_text, replace_text
from hub_cards.verify.checks import FAILS, HOLDS, OPEN
from hub_cards.verify.verifying import Verification

NEVER_CHECKED = (
    "Not checked, as nobody can measure it again: what the model was trained on and how, speed, "
    "hardware, dates, what the datasets are called, images, and results that are not recorded."
)
CLOSING = {
    HOLDS: "The results on the card hold.",
    FAILS: "Something does not hold.",
    OPEN: "Nothing contradicts the card, but not all of it was checked.",
}


def report(verification: Verification) -> str:
    """Write a verification as a table for people, with one line for each check."""
    lines: list[str] = []
    about = ""
    for check in verification.checks:
        if check.about != about:
            about = check.about
            lines.append(f"\n{about}")
        lines.append(f"{check.name:<14}  {check.verdict:<13}  {check.detail}")
    facts = [check.facts for check in verification.checks if "interval" in check.facts]
    accuracies = [each for each in facts if each["metric"] != "loss"]
    if accuracies:
        half = max(
            50 * (each["interval"][1] - each["interval"][0]) + 100 * each["tolerance"]
            for each in accuracies
        )
        lines.append(
            f"\nSeed {verification.seed}. A card that is right is called wrong by at most 1 in 100 "
            f"such samples. An accuracy that is off by {half:.1f} points is found out by about "
            "half of them; one off by twice as much, by nearly all."
        )
    basis = verification.basis
    if any(basis.values()):
        parts = [f"{by}: {', '.join(names) or 'none'}" for by, names in basis.items()]
        lines += ["", f"Results {'; '.join(parts)}."]
    return "\n".join([*lines, "", NEVER_CHECKED, CLOSING[verification.verdict]])


def write_result(verification: Verification, path: str | Path) -> None:
    """Write a verification as JSON, whole or not at all."""
    replace_text(Path(path), json_text(verification_record(verification)))


def verification_record(verification: Verification) -> Record:
    """Give a verification as a JSON object, with the command and the date."""
    return {
        "verdict": verification.verdict,
        **asdict(verification),
        "basis": verification.basis,
        "command": f"python -m hub_cards {shlex.join(sys.argv[1:])}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
