"""What the package hub_cards imports and ships."""

import ast
import tomllib

from tests.support.clients import ROOT


def test_hub_cards_imports_none_of_our_packages():
    files = sorted((ROOT / "hub_cards").rglob("*.py"))
    assert len(files) >= 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            if isinstance(node, ast.Import | ast.ImportFrom):
                tops = {name.split(".")[0] for name in names}
                assert not tops & {"modeling", "convzoo", "app", "train_accelerate", "torch"}


def test_every_data_file_of_the_package_is_shipped():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        file
        for pattern in patterns["package-data"]["hub_cards"]
        for file in (ROOT / "hub_cards").glob(pattern)
    }
    present = {
        f
        for f in (ROOT / "hub_cards").rglob("*")
        if f.is_file() and f.suffix not in (".py", ".pyc")
    }
    assert shipped == present
