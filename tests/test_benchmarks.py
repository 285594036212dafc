"""benchmarks/: what the scripts take from the project is there; mypy checks how they call it."""

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("app", "convzoo", "hub_cards", "modeling", "tests", "train_accelerate")
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_project_is_there(path):
    tree = ast.parse(path.read_text())
    modules = {}  # by the name that the script gives them
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in OURS:
            for name in node.names:
                taken = taken_from(node.module, name.name)
                if inspect.ismodule(taken):
                    modules[name.asname or name.name] = taken
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/results/*.json")), ids=str)
def test_results_name_no_folder_of_a_machine(path):
    assert not re.search(r"[ \"=](/|~|[A-Z]:\\)(?!dev/|proc/)\w", path.read_text(encoding="utf-8"))


def taken_from(module, name):
    """What `from module import name` gives."""
    found = importlib.import_module(module)
    if not hasattr(found, name):
        return importlib.import_module(f"{module}.{name}")
    return getattr(found, name)


def test_mypy_checks_the_benchmarks():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    (override,) = (one for one in settings["overrides"] if one["module"] == ["benchmarks.*"])
    assert "benchmarks" in settings["files"] and override["check_untyped_defs"]
    ours = {"attr-defined", "call-arg", "import-not-found", "name-defined"}
    assert not ours & set(override["disable_error_code"])
