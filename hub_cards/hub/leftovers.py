"""Find files that only the Hub has, and that would contradict a model folder pushed beside them.

A push deletes nothing. So results and records of older weights stay, where the folder has none of
its own, and whoever reads the repository takes them for those of the new ones.
"""

import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from hub_cards.card.rendering import is_generated, render_card
from hub_cards.evidence.folder import read_evidence
from hub_cards.hub.staging import RECORDS

RESULT_FILES = ".eval_results/*.yaml"
PATTERNS = (*RECORDS, "metrics.jsonl", "emissions.csv", "baselines/*.json", RESULT_FILES)
OF_WEIGHTS = re.compile(r"weights sha256:([0-9a-f]{64})")


def contradiction(
    stage: Path, repo_id: str, names: Collection[str], *, read: Callable[[str], bytes]
) -> str:
    """Say what files on the Hub contradict in a staged folder that lacks them; "" for nothing.

    Args:
        stage: the folder, with its card.
        repo_id: where it goes.
        names: files that only the Hub has.
        read: gives the content of one.
    """
    found = [name for name in names if _is_record(name)]
    if not found:
        return ""
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as folder:
        both = Path(folder)
        for path in stage.rglob("*"):
            place = both / path.relative_to(stage)
            if path.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path.absolute())
        for name in found:
            (both / name).parent.mkdir(parents=True, exist_ok=True)
            (both / name).write_bytes(read(name))
        try:
            evidence = read_evidence(both)
            for path in sorted(both.glob(RESULT_FILES)):
                text = path.read_text(encoding="utf-8", errors="replace")
                if set(OF_WEIGHTS.findall(text)) - {evidence.weights.sha256}:
                    return f"{path.relative_to(both)} has results of other weights."
            card = (stage / "README.md").read_text(encoding="utf-8")
            if is_generated(card) and render_card(evidence, repo_id) != card:
                return f"the card would be another with {', '.join(found)}."
        except (OSError, ValueError) as error:
            return str(error).replace(str(both), "the repository")
    return ""


def _is_record(name: str) -> bool:
    return any(
        PurePosixPath(name).match(pattern) and name.count("/") == pattern.count("/")
        for pattern in PATTERNS
    )
