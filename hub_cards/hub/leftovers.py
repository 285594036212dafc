"""Find files that only the Hub has, and that would contradict a model folder pushed beside them.

A push deletes nothing. So results of older weights stay, where the folder has none of its own.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from hub_cards.evidence.folder import read_evidence
from hub_cards.evidence.weights import read_weights
from hub_cards.hub.staging import RECORDS

RESULT_FILES = ".eval_results/*.yaml"
PATTERNS = (*RECORDS, "baselines/*.json", RESULT_FILES)
OF_WEIGHTS = re.compile(r"weights sha256:([0-9a-f]{64})")


def contradiction(stage: Path, names: Collection[str], read: Callable[[str], bytes]) -> str:
    """Say what files on the Hub contradict in a staged folder that lacks them; "" for nothing.

    Args:
        stage: the folder.
        names: files that only the Hub has.
        read: gives the content of one.
    """
    found = [name for name in names if _is_record(name)]
    if not found:
        return ""
    weights = read_weights(stage)
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as folder:
        both = Path(folder)
        for name in (*PATTERNS, *found):
            (both / name).parent.mkdir(parents=True, exist_ok=True)
        for name in RECORDS:
            if (stage / name).is_file():
                shutil.copyfile(stage / name, both / name)
        for name in found:
            (both / name).write_bytes(read(name))
        for path in sorted(both.glob(RESULT_FILES)):
            measured = set(OF_WEIGHTS.findall(path.read_text(encoding="utf-8", errors="replace")))
            if measured - {weights.sha256}:
                return f"{path.relative_to(both)} has results of other weights"
        try:
            read_evidence(both, weights)
        except (OSError, ValueError) as error:
            return str(error).replace(str(both), "the repository")
    return ""


def _is_record(name: str) -> bool:
    return any(
        PurePosixPath(name).match(pattern) and name.count("/") == pattern.count("/")
        for pattern in PATTERNS
    )
