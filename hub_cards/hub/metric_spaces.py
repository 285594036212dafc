"""Build and push the Space from which `evaluate` loads a metric."""

import ast
import re
import shutil
import tempfile
from pathlib import Path

from hub_cards.files import Record
from hub_cards.hub.access import check_repo_id
from hub_cards.hub.push_errors import PushError
from hub_cards.hub.pushing import DEFAULTS, PushOptions, PushResult, push_stage
from hub_cards.hub.space_staging import copy_file, finish_space, parse_python, pinned


def push_metric(
    folder: str | Path,
    repo_id: str,
    *,
    options: PushOptions = DEFAULTS,
) -> PushResult:
    """Make a Space hold a metric, so that `evaluate.load(repo_id)` works; see `push_space`.

    Args:
        folder: with the module of the metric, called as the Space.
        repo_id: the Space, as user/name; created if it does not exist.
        options: how.
    """
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as stage:
        build_metric(folder, repo_id, target=stage)
        return push_stage("space", Path(stage), repo_id=repo_id, options=options)


def build_metric(folder: str | Path, repo_id: str, *, target: str | Path) -> None:
    """Write the files of a Space from which `evaluate.load(repo_id)` loads a metric.

    Args:
        folder: with the metric's module, which must be called as the Space, and has a docstring.
        repo_id: where it is to be on the Hub, as user/name.
        target: an empty folder.

    Raises:
        PushError: with reason "name" or "folder".
    """
    check_repo_id(repo_id)
    name = repo_id.split("/")[1]
    script = Path(folder) / f"{name}.py"
    if not script.is_file():
        there = ", ".join(path.stem for path in sorted(Path(folder).glob("*.py"))) or "none"
        raise PushError(
            "name",
            f"evaluate looks in {repo_id} for {name}.py, so the Space must be called as the "
            f"metric's module; those of {folder}: {there}",
        )
    about = ast.get_docstring(parse_python(script))
    if not about:
        raise PushError("folder", f"{script} must have a docstring: it becomes the Space's card")
    target = Path(target)
    shutil.copyfile(script, target / script.name)
    copy_file(Path(__file__).with_name("metric_page.py"), target / "app.py")
    metadata: Record = {
        "title": name,
        "emoji": "\N{STRAIGHT RULER}",
        "short_description": f"{name}, a metric for evaluate",
        "tags": ["evaluate", "metric"],
    }
    about = re.sub(r"evaluate\.load\([^)]*\)", f'evaluate.load("{repo_id}")', about)
    finish_space(
        target,
        "metric.md.jinja",
        repo_id=repo_id,
        metadata=metadata,
        requirements=pinned(target),
        context={"about": about},
    )
