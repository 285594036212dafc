"""Stay on the commits of the Hub that a run began with, whatever is pushed there meanwhile.

`commits.json` in the run folder has, for each repository of the recipe, its id, the revision that
the recipe asks for and the commit that this was when the run began. A local folder has none.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from convzoo.files import read_json, write_json
from convzoo.recipe.settings import Recipe

logger = logging.getLogger("train")
FILE = "commits.json"
REPOSITORIES = {"data": "path", "finetune": "pretrained"}  # section -> key of its repository


def stay_on_commits(recipe: Recipe, sections: Collection[str]) -> Recipe:
    """Return the recipe with the commits that the run in its folder began with.

    A recipe that names another repository or revision than at the start keeps its own.

    Args:
        recipe: as the user gave it.
        sections: those whose repositories are read.
    """
    known, changes = _read(recipe.folder), {}
    for section in sections:
        settings = getattr(recipe, section)
        begun = known.get(section)
        if begun and _asked(recipe, section) == {k: begun[k] for k in ("id", "revision")}:
            changes[section] = settings.model_copy(update={"revision": begun["commit"]})
            logger.info(
                "%s.%s: %s stays on commit %s, with which this run began",
                section,
                REPOSITORIES[section],
                begun["id"],
                begun["commit"],
            )
    return recipe.model_copy(update=changes)


def note_commits(recipe: Recipe, found: dict[str, str | None]) -> None:
    """Write down the commits that a run uses, for when it is started again.

    Args:
        recipe: as the user gave it.
        found: section -> commit of its repository, None for a local folder.
    """
    known = _read(recipe.folder)
    for section, commit in found.items():
        begun = known.get(section, {})
        if not commit:
            continue
        if begun.get("id") == _asked(recipe, section)["id"] and begun["commit"] != commit:
            logger.warning(
                "%s.revision: this run began with commit %s of %s and resumes with %s, as the "
                "recipe says; whether labels differ is not checked",
                section,
                begun["commit"],
                begun["id"],
                commit,
            )
        known[section] = {**_asked(recipe, section), "commit": commit}
    if known:
        write_json(recipe.folder / FILE, known)


def _asked(recipe: Recipe, section: str) -> dict[str, str]:
    settings = getattr(recipe, section)
    return {"id": getattr(settings, REPOSITORIES[section]), "revision": settings.revision}


def _read(folder: Path) -> dict[str, Any]:
    """Read what is known of the start; {} where it is not there.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        return {s: {k: str(content[s][k]) for k in ("id", "revision", "commit")} for s in content}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} must have the commits that the run began with; it is damaged ({error!r}). "
            f"Delete it, and the run takes the commits that its recipe names"
        ) from error
