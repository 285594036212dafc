"""Find the Python files that `trust_remote_code=True` runs of a model folder."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from hub_cards.files import Record


def named_code(auto_map: Record) -> set[str]:
    """Give the files that an auto_map names."""
    return {reference.partition(".")[0] + ".py" for reference in auto_map.values()}


def with_imports(folder: Path, names: Iterable[str]) -> set[str]:
    """Add to some files of a folder what they import from beside them, which need not be there.

    Raises:
        ValueError: if one is no Python file.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported_beside(folder / name)
    return found


def _imported_beside(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} must be a Python file; {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f"{name.partition('.')[0]}.py" for name in names)
