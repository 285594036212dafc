"""Write what every Space has: files of this checkout, pinned requirements, a card with metadata."""

import ast
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import jinja2
import yaml

from hub_cards.card.formatting import plain
from hub_cards.card.model_facts import CODE_LICENSE
from hub_cards.card.rendering import signed
from hub_cards.card.validation import RULES, space_problems
from hub_cards.files import Record, replace_text
from hub_cards.hub.file_hashes import hash_files
from hub_cards.hub.push_errors import PushError

FILE_LINE = re.compile(r"^<!-- file (\S+) ([0-9a-f]{40}) -->$", re.MULTILINE)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file of this checkout.

    Raises:
        PushError: with reason "folder", if it is not there.
    """
    if not source.is_file():
        raise PushError("folder", f"{source} is missing: run this in a checkout of the repository")
    shutil.copyfile(source, target)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, the same on every system."""
    replace_text(path, "".join(f"{line}\n" for line in lines))


def parse_python(path: Path) -> ast.Module:
    """Read a Python file.

    Raises:
        PushError: with reason "folder", if it is none.
    """
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise PushError("folder", f"{path} must be a Python file; {error}") from error


def written_files(card: str) -> dict[str, str]:
    """Files beside a card when it was written, with the names that git gives their contents."""
    return dict(FILE_LINE.findall(card))


def pinned(folder: Path, *more: str) -> list[str]:
    """Installed versions of what the Python files of a Space import, but gradio: it is the SDK.

    Args:
        folder: the Space.
        more: distributions that they need without importing them.

    Raises:
        PushError: with reason "folder", if one is not installed.
    """
    imported = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(parse_python(path)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.partition(".")[0])
    imported -= {"gradio", *sys.stdlib_module_names}
    owners = importlib.metadata.packages_distributions()
    names = {owners.get(module, [module])[0].lower() for module in imported}
    return sorted(f"{name}=={_version(name)}" for name in names | set(more))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]  # +cpu is not on PyPI
    except importlib.metadata.PackageNotFoundError as error:
        raise PushError(
            "folder",
            f"{name} is not installed, so its version is not known: a Space gets the versions with "
            "which it was tried here. Install it, as with pip install -e '.[demo]'",
        ) from error


def finish_space(
    folder: Path,
    template: str,
    *,
    repo_id: str,
    metadata: Record,
    requirements: list[str],
    context: Mapping[str, object],
    gpu: bool = False,
) -> None:
    """Write requirements and card of a Space, and check both.

    Args:
        folder: the Space, with its other files.
        template: file name of the card's template.
        repo_id: where it is to be on the Hub, as user/name.
        metadata: the front matter that only this Space has.
        requirements: lines for requirements.txt.
        context: what else the template needs.
        gpu: for hardware with an NVIDIA GPU.

    Raises:
        PushError: with reason "folder", if a rule is broken.
    """
    if not gpu and any(line.startswith("torch==") for line in requirements):
        # pip prefers 2.8.0+cpu of that index to 2.8.0 of PyPI, which is the one for CUDA.
        requirements = [RULES["space"]["requirement_index"], *requirements]
    write_lines(folder / "requirements.txt", requirements)
    metadata |= {
        "suggested_hardware": RULES["space"]["gpu_hardware"] if gpu else [],
        "colorFrom": "indigo",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": _version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        "license": CODE_LICENSE,
    }
    metadata = {key: value for key, value in metadata.items() if value != []}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    body = environment.get_template(template).render(
        {**context, **metadata, "repo_id": repo_id, "gpu": gpu}
    )
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)
    # By these a push knows which of them a person has edited on the Hub.
    files = {path: file.git_oid for path, file in hash_files(folder).items() if "/" not in path}
    record = "".join(f"<!-- file {path} {oid} -->\n" for path, oid in files.items())
    text = signed(f"---\n{front}---\n\n{body}\n\n{record}")
    replace_text(folder / "README.md", text)
    if problems := space_problems(folder):
        raise PushError(
            "folder",
            f"the Space breaks {len(problems)} rule(s):\n"
            + "\n".join(f"- {problem}" for problem in problems),
        )
