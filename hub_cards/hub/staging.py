"""Copy what belongs to a model folder, with its card for one place on the Hub.

Only files that a model folder is known to have are copied, or that its card or its code names; all
else stays at home, symbolic links are refused, and absolute paths of this machine are replaced.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from hub_cards.card.agreement import absent_results, compare_index
from hub_cards.card.eval_result_files import write_eval_result_files
from hub_cards.card.rendering import HASH_LINE, is_generated, write_card
from hub_cards.card.report_figures import CALIBRATION, CONFUSION
from hub_cards.card.validation import card_problems, relative_links
from hub_cards.evidence.code_files import named_code, with_imports
from hub_cards.evidence.folder import Evidence, read_evidence
from hub_cards.hub.local_paths import make_publishable, names_home
from hub_cards.hub.push_errors import PushError

logger = logging.getLogger(__name__)

SETTINGS = ("config.json", "preprocessor_config.json")
RECORDS = (
    *SETTINGS, "conversion.json", "eval_results.json", "robustness_results.json", "recipe.toml",
    "speed_results.json",
    "train_results.json",
)  # fmt: skip
TEXTS = (".csv", ".json", ".jsonl", ".md", ".toml", ".yaml")
MODEL_FILES = (
    *RECORDS, "model.safetensors", "README.md", "metrics.jsonl", "emissions.csv",
    "training_curve.png", "reliability_diagram.png", "robustness.png", CONFUSION, CALIBRATION,
    "LICENSE*", "NOTICE*",
    "examples/*.png", "examples/*.jpg", "examples/*.jpeg", "examples/*.md", ".eval_results/*.yaml",
    "baselines/*.json",
)  # fmt: skip


PREDICTIONS = "predictions/*.parquet"  # what the model said of each image, and file names of these


def stage_model(
    folder: Path, stage: Path, repo_id: str | None, *, with_predictions: bool = False
) -> tuple[str, ...]:
    """Copy a model folder into an empty one and render its card there.

    A README.md that was edited by hand is kept, if it is a good card.

    Args:
        folder: the model folder; nothing is written into it.
        stage: the empty one.
        repo_id: where it will be on the Hub, if it will be there on its own.
        with_predictions: copy the predictions files of the evaluations, too.

    Returns:
        Names of what is no part of a model folder and was left out.

    Raises:
        PushError: with reason "folder", if something is missing, is a symbolic link, or the card
            breaks a rule.
    """
    try:
        names, named = list(_walk(folder)), _named_files(folder)
        patterns = (*MODEL_FILES, *((PREDICTIONS,) if with_predictions else ()))
        named = {name for name in named if not PurePosixPath(name).match(PREDICTIONS)}
        wanted = [name for name in names if _belongs(name, named, patterns=patterns)]
        for name in wanted:
            _copy(folder, stage, name)
        for path in (*(stage / record for record in RECORDS), *stage.glob("baselines/*.json")):
            if path.is_file():
                make_publishable(path)
        _add_card(stage, repo_id)
        _leave_out_figures(stage)
        _check_texts(stage)
    except (OSError, ValueError) as error:
        message = str(error).replace(str(stage), str(folder))
        raise PushError("folder", f"{message}\nNothing was pushed.") from error
    wanted = [name for name in wanted if (stage / name).exists()]
    kept_folders = {name.partition("/")[0] for name in wanted if "/" in name}
    left_out = {
        f"{top}/" if slash and top not in kept_folders else f"{top}{slash}{rest}"
        for top, slash, rest in (name.partition("/") for name in set(names) - set(wanted))
    }
    return tuple(sorted(left_out))


def _walk(folder: Path) -> Iterator[str]:
    """Paths of files and of links, with slashes; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted((*files, *links)):
            path = here / name
            if path.is_symlink() or path.is_file():
                yield path.relative_to(folder).as_posix()


def _belongs(name: str, named: set[str], *, patterns: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    # A link in the place of a folder would bring what it leads to.
    folders = {pattern.partition("/")[0] for pattern in patterns if "/" in pattern}
    return (
        name in named
        or name in folders
        or any(
            path.match(pattern) and name.count("/") == pattern.count("/") for pattern in patterns
        )
    )


def _copy(folder: Path, stage: Path, name: str) -> None:
    if (folder / name).is_symlink():
        raise ValueError(
            f"{folder / name} must be a file of the model folder; it is a symbolic link, and what "
            "it leads to may not be meant for others. Put a copy in its place."
        )
    (stage / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / name, stage / name)


def _named_files(folder: Path) -> set[str]:
    """Code that the settings name, with what it imports from beside it, and what a card links."""
    named = set().union(*(_code_of(folder / settings) for settings in SETTINGS))
    found = with_imports(folder, named)
    card = folder / "README.md"
    if card.is_file() and not card.is_symlink():
        found.update(relative_links(card.read_text(encoding="utf-8")))
    return found


def _code_of(settings: Path) -> set[str]:
    try:
        return named_code(json.loads(settings.read_text(encoding="utf-8"))["auto_map"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # who reads it as evidence says what is wrong with it


def _leave_out_figures(stage: Path) -> None:
    """Leave out figures of a report that the card does not show: they are of another result."""
    shown = relative_links((stage / "README.md").read_text(encoding="utf-8"))
    for name in {CONFUSION, CALIBRATION} - set(shown):
        (stage / name).unlink(missing_ok=True)


def _check_texts(stage: Path) -> None:
    """Refuse what still names the author's home, as a card edited by hand may."""
    for path in sorted(stage.rglob("*")):
        if path.suffix in TEXTS and names_home(path.read_text(encoding="utf-8", errors="replace")):
            raise ValueError(f"{path} names {Path.home()}; take that out before others read it")


def _add_card(stage: Path, repo_id: str | None) -> None:
    card = stage / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    if text is None or is_generated(text):
        write_card(stage, repo_id)
        return
    evidence = read_evidence(stage)
    if problems := [*card_problems(text, stage), *_untrue(evidence, text)]:
        raise ValueError(
            f"{card} was edited by hand and breaks {len(problems)} rule(s):\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    write_eval_result_files(evidence, create=False)
    logger.info("README.md was edited by hand and is pushed as it is")
    if HASH_LINE.search(text) and (absent := absent_results(evidence, text)):
        logger.warning(
            "README.md lacks what eval_results.json says: %s. If it has older numbers, mend it, or "
            "delete it and push again: it is then written anew",
            absent[0],
        )


def _untrue(evidence: Evidence, card: str) -> list[str]:
    """Name the numbers of a card's metadata that results contradict: it is older than these."""
    try:
        return compare_index(evidence, card).wrong
    except ValueError:
        return []  # `card_problems` says so
