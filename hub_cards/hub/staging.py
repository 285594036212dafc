"""Copy what belongs to a model folder, with its card for one place on the Hub."""

import fnmatch
import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from hub_cards.card.eval_result_files import write_eval_result_files
from hub_cards.card.rendering import is_generated, write_card
from hub_cards.card.validation import card_problems
from hub_cards.evidence.folder import read_evidence
from hub_cards.hub.push_errors import PushError

logger = logging.getLogger(__name__)

# What belongs to a model folder; all else stays at home.
MODEL_FILES = (
    "model.safetensors", "*.json", "*.jsonl", "*.toml", "*.py", "*.md", "*.png", "*.svg", "*.jpg",
    "LICENSE*", "NOTICE*", "examples/*.png", "examples/*.jpg", "examples/*.jpeg", "examples/*.md",
    ".eval_results/*.yaml", "emissions.csv",
)  # fmt: skip
CHECKPOINT_FILES = ("manifest.json",)  # of a checkpoint, and untrue without its training state


@dataclass(frozen=True)
class StagedFile:
    """Size in bytes, and the names that the Hub gives a content: SHA-256 in LFS, else git's."""

    size: int
    sha256: str
    git_oid: str


def staged_files(stage: Path) -> dict[str, StagedFile]:
    """The files of a folder, by their path there with slashes."""
    paths = [path for path in sorted(stage.rglob("*")) if path.is_file()]
    return {path.relative_to(stage).as_posix(): _read(path) for path in paths}


def _read(path):
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            sha1.update(block)
    return StagedFile(size, sha256.hexdigest(), sha1.hexdigest())


def megabytes(size: int) -> str:
    """A number of bytes for reading."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def stage_model(folder: Path, stage: Path, repo_id: str) -> tuple[str, ...]:
    """Copy a model folder into an empty one and render its card there.

    A README.md that was edited by hand is kept, if it is a good card.

    Returns:
        Names of what is no part of a model folder and was left out.

    Raises:
        PushError: with reason "folder", if something is missing or the card breaks a rule.
    """
    try:
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        wanted = [name for name in names if _belongs(name.as_posix())]
        for name in wanted:
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, stage / name)
        _add_card(stage, repo_id)
    except (OSError, ValueError) as error:
        message = str(error).replace(str(stage), str(folder))
        raise PushError("folder", f"{message}\nNothing was pushed.") from error
    kept_folders = {name.parts[0] for name in wanted if len(name.parts) > 1}
    left_out = {
        f"{name.parts[0]}/" if name.parts[:-1] and name.parts[0] not in kept_folders else str(name)
        for name in set(names) - set(wanted)
    }
    return tuple(sorted(left_out))


def _belongs(name):
    # fnmatch's * also matches a slash.
    return name not in CHECKPOINT_FILES and any(
        fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")
        for pattern in MODEL_FILES
    )


def _add_card(stage, repo_id):
    card = stage / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    if text is None or is_generated(text):
        write_card(stage, repo_id)
    elif problems := card_problems(text, stage):
        raise ValueError(
            f"{card} was edited by hand and breaks {len(problems)} rule(s):\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    else:
        write_eval_result_files(read_evidence(stage), create=False)
        logger.info("README.md was edited by hand and is pushed as it is")
