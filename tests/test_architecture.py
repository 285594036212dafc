"""Rules of the code base that a reader may rely on."""

import ast
import sys

import pytest

from tests.conftest import ROOT

PACKAGES = ("modeling", "convzoo", "hub_cards")
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "benchmarks", "tests", "data")
    for path in (ROOT / folder).rglob("*.py")
) + [ROOT / "train_accelerate.py", ROOT / "app.py"]
# What each part may import of ours.
MAY_IMPORT = {
    "modeling": set(),
    "convzoo": {"modeling"},
    "train_accelerate.py": {"modeling", "convzoo", "hub_cards"},  # to push what it trained
    "hub_cards": set(),
    "app.py": set(),
    "benchmarks": {"modeling", "convzoo", "tests", "train_accelerate"},
}


def imported_modules(path):
    """Top-level names of all absolute imports in a file, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_follow_the_direction_of_the_layout(part):
    ours = {"modeling", "convzoo", "hub_cards", "train_accelerate", "app", "tests"}
    paths = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    for path in paths:
        allowed = MAY_IMPORT[part] | {part.removesuffix(".py")}
        assert imported_modules(path) & ours <= allowed, path


def test_names_do_not_hide_libraries_or_say_nothing():
    forbidden = {"datasets", "evaluate", "accelerate", "transformers", "gradio", "torch"}
    for path in [*ROOT.glob("*.py"), *(p for p in ROOT.iterdir() if p.is_dir())]:
        assert path.stem not in forbidden | set(sys.stdlib_module_names), path
    vague = {"utils", "helpers", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in vague]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_test_file(package):
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    together = {  # modules that one file tests through their command or their card
        "hub_cards": "test_hub_cards",
        "configuration_cnn": "test_modeling_cnn",
        "configuration_alexnet": "test_modeling_alexnet",
        "configuration_qlnet": "test_modeling_qlnet",
        "image_processing_convzoo": "test_image_processing",
        "__main__": "test_commands",
    }
    for path in (ROOT / package).glob("*.py"):
        if path.stem == "__init__":
            continue
        name = together.get(package) or together.get(path.stem, f"test_{path.stem}")
        assert name in tests, f"{path} has no tests/{name}.py"


def test_libraries_do_not_print():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.stem == "__main__":
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            printing = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
            assert not printing, path


def test_code_is_ascii():
    for path in SOURCES:
        assert path.read_text(encoding="utf-8").isascii(), path


def test_public_functions_explain_themselves():
    """Every public function, class and method of the packages has a docstring."""
    for path in SOURCES:
        if path.parent.name == "tests":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"
