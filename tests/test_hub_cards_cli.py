"""The command line of hub_cards."""

import json
import sys
import tomllib

import pytest

from hub_cards.cli import main
from hub_cards.cli.overview import SUMMARIES
from hub_cards.cli.several_values import spread_values
from hub_cards.cli.terminal import visible
from tests.support.clients import ROOT, run
from tests.support.model_folders import DATASET, put, put_results, result


@pytest.mark.parametrize("arguments", [["--help"], ["render", "--help"], ["verify", "--help"]])
def test_help_does_not_load_the_libraries(arguments):
    code = (
        "import sys; from hub_cards.cli import main\n"
        f"status = main({arguments})\n"
        "assert not {'jinja2', 'yaml', 'huggingface_hub', 'rich'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    assert "Example:" in run("-c", code).stdout


def page(capsys, *arguments):
    assert main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_quick_page_is_the_one_that_typer_would_print(flag, capsys, monkeypatch):
    from hub_cards.cli.application import run as run_with_typer

    monkeypatch.setenv("COLUMNS", "80")
    quick = page(capsys, flag)
    assert run_with_typer([flag]) == 0
    assert quick == capsys.readouterr().out


@pytest.mark.parametrize("command", SUMMARIES)
def test_each_help_has_an_example_and_the_exit_statuses(command, capsys):
    text = page(capsys, command, "--help")
    assert f"Example:\n    hub-cards {command} " in text and "Exit status: " in text
    assert "--json" in text and "--quiet" in text


def test_the_version_is_that_of_the_package(capsys):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert page(capsys, "--version") == f"hub-cards {version}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["rendr"], "No such command 'rendr'"),
        (["render"], "Missing argument 'MODEL_FOLDER'"),
        (["render", "x", "--frce"], "No such option: --frce"),
        (["verify", "x", "--sample", "0"], "--sample"),
        (["verify", "x", "--batch-size", "many"], "--batch-size"),
        (["push", "x"], "Missing argument 'USER/NAME'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert message in said.err


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("verify m --data a b c --seed 1", "verify m --data a --data b --data c --seed 1"),
        ("verify --data a b --split s m", "verify --data a --data b --split s m"),
        ("verify m --data a --data b c", "verify m --data a --data b --data c"),
        ("verify m --data=a --quiet", "verify m --data=a --quiet"),
        ("verify m --data a -- b", "verify m --data a -- b"),
        ("push --data a b", "push --data a b"),
    ],
)
def test_an_option_takes_several_values_after_one_flag(given, spread):
    assert spread_values(given.split()) == spread.split()


def test_the_home_folder_is_found_behind_an_option(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["render", "~/a b", "--output=~/card.md", "--x", "~", "a~/b", "--y=a~", "~b/c"]
    expected = ["render", "/home/me/a b", "--output=/home/me/card.md", "--x", "/home/me"]
    assert spread_values(given) == [*expected, *given[5:]]


def test_results_are_printed_for_people_or_as_json(full, capsys):
    assert json.loads(page(capsys, "render", str(full), "--eval-results", "--json")) == {
        "card": str(full / "README.md"),
        "eval_results": [],
    }
    assert page(capsys, "render", str(full), "--quiet") == f"{full / 'README.md'}\n"
    quoted = str(ROOT / "hub_cards" / "quoted_results.toml")
    tables = json.loads(page(capsys, "index", quoted, "--json"))["tables"]
    entries = tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]
    shown = {(row["name"], row["top1"]["value"]) for table in tables for row in table["rows"]}
    assert shown == {(entry["name"], entry["top1_accuracy"]) for entry in entries}


def test_names_do_not_command_the_terminal(full, capsys):
    hostile = "\x1b]0;title\x07\x1b[2J\u202e"
    put_results(full, result(full, dataset=DATASET | {"name": hostile}))
    said = page(capsys, "index", str(full))
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    put(full, "config.json", {"model_type": hostile})
    assert main(["render", str(full)]) == 1
    assert "\x1b" not in capsys.readouterr().err
    assert visible(hostile + "a\tb\n") == r"\x1b]0;title\x07\x1b[2J\u202ea" + "\tb\n"


def test_ctrl_c_says_interrupted(monkeypatch, capsys, full):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hub_cards.card.rendering.write_card", interrupt)
    assert main(["render", str(full)]) == 130
    assert capsys.readouterr().err.split() == ["interrupted"]


def test_a_missing_library_is_named_with_the_extra(monkeypatch, capsys, full):
    monkeypatch.setitem(sys.modules, "hub_cards.card.rendering", None)
    assert main(["render", str(full)]) == 1
    assert "pip install -e '.[cards]'" in capsys.readouterr().err
