"""All pages tell the truth about paths, commands, options, keys and code."""

import ast
import re
import shlex
import subprocess
import tomllib
from functools import cache

import pytest
import yaml

import modeling
from convzoo.recipe.files import load_recipe
from convzoo.recipe.settings import Recipe
from tests.support.clients import ROOT, run_warm
from tests.support.documents import Page

DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
PAGES = {name: Page(name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS)}
PACKAGES = {"convzoo": "convzoo", "hub-cards": "hub_cards"}


@pytest.fixture(params=PAGES)
def page(request):
    return PAGES[request.param]


@pytest.mark.parametrize("name", DOCS)
def test_a_page_is_short_and_its_links_lead_to_files(name):
    PAGES[name].check_form()


def test_links_lead_to_files(page):
    page.check_links()


def test_the_index_names_every_page():
    links = set(PAGES["docs/README.md"].links())
    assert {name.removeprefix("docs/") for name in DOCS} - {"README.md"} <= links


def test_commands_name_what_is_there(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in page.commands():
        if command.startswith("make "):
            assert command.split()[1] in targets
        for word in command.split():
            made = word.startswith(("runs/", ".venv"))
            if re.fullmatch(r"[\w/.-]+\.(py|toml|txt)|data/\S+|recipes/\S+", word) and not made:
                assert (ROOT / word).exists(), word


def test_make_help_names_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = set(re.findall(r"^([\w-]+) ", done.stdout, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert said == set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    for page in PAGES.values():
        assert set(re.findall(r"`make ([\w-]+)`", page.text)) <= said


@cache
def help_of(package, *command):
    return run_warm("-m", package, *command, "--help", COLUMNS="200").stdout


def our_commands(page):
    """Package, subcommand and arguments of each command of ours in the blocks of a page."""
    for command in page.commands():
        words = shlex.split(command.partition("--module ")[2] or command)
        if words[0] in PACKAGES:
            yield PACKAGES[words[0]], *words[1:]


def test_subcommands_and_options_exist(page):
    for package, name, *arguments in our_commands(page):
        said = help_of(package, name)
        options = {word for word in arguments if word.startswith("--")}
        assert options <= set(re.findall(r"--[\w-]+", said)), (package, name)
    for program, name in re.findall(r"`(convzoo|hub-cards) ([a-z]+)", page.text):
        assert re.search(rf"\b{name}\b", help_of(PACKAGES[program])), (program, name)


def test_recipes_take_the_overrides_of_commands(page):
    for command in page.commands():
        words = shlex.split(command)
        if "train_accelerate.py" in words:
            recipe, *overrides = words[words.index("train_accelerate.py") + 1 :]
            load_recipe(ROOT / recipe, overrides)


def test_keys_in_sentences_are_settings(page):
    sections = {name: getattr(Recipe(), name) for name in Recipe.__annotations__}
    for section, key in re.findall(rf"`({'|'.join(sections)})\.(\w+)(?:=[^`]*)?`", page.text):
        known = set(type(sections[section]).__annotations__)
        if section == "model":
            known |= {name for family in modeling.FAMILIES for name in family.__annotations__}
        is_file = key in ("py", "safetensors", "onnx", "pt2")
        assert is_file or key in known, f"{section}.{key}"


def test_python_blocks_use_names_that_exist(page):
    for block in page.blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "modeling":
                assert {alias.name for alias in node.names} <= set(modeling.__all__)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["type"]
    for key, value in (("title", "name"), ("version", "version"), ("license", "license")):
        assert citation[key] == project[value]
    dated = re.search(
        rf"^## \[{re.escape(project['version'])}\] - (\S+)$", PAGES["CHANGELOG.md"].text, re.M
    )
    assert str(citation["date-released"]) == dated[1]
    assert citation["authors"] == [{"name": "The convzoo authors"}]
