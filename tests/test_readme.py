"""The README tells the truth: its paths, commands, table and code."""

import json
import re
import tomllib

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands():
    lines = [
        line.partition("  #")[0].strip() for block in blocks("bash") for line in block.split("\n")
    ]
    return [line for line in lines if line]


def test_it_fits_on_150_lines():
    assert TEXT.count("\n") <= 150


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_tree_matches_the_repository():
    (tree,) = re.findall(r"## Where is what\n\n```\n(.*?)```", TEXT, flags=re.DOTALL)
    named = re.findall(r"^([\w./]+) ", tree, flags=re.MULTILINE)
    for name in named:
        assert (ROOT / name).exists(), name
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"tests"} <= {name.strip("/") for name in named}
    modules = {path.stem for path in (ROOT / "convzoo").glob("[a-z]*.py")}
    engine = re.search(r"the engine: (.*?)recipes/", tree, flags=re.DOTALL)[1]
    assert set(re.findall(r"\w+", engine)) <= modules


def test_commands_name_what_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in commands():
        if command.startswith("make "):
            assert command.split()[1] in targets
        for word in command.split():
            made = word.startswith(("runs/", ".venv"))
            if re.fullmatch(r"[\w/.-]+\.(py|toml|txt)|data/\S+|recipes/\S+", word) and not made:
                assert (ROOT / word).exists(), word


def test_ci_runs_the_readmes_test_command():
    assert "make test" in commands()
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"


def rows():
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("row", [row for row in rows() if row[-1].startswith("quoted")], ids=str)
def test_quoted_rows_are_those_of_the_quoted_results(row):
    quoted = tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]
    (entry,) = [entry for entry in quoted if entry["name"] == row[0].strip("`")]
    assert row[1].lower().startswith(entry["model_type"])
    assert row[2] == f"{entry['num_parameters']:,}"
    assert row[3] == f"{entry['top1_accuracy'] * 100:.2f}"
    top5 = entry.get("top5_accuracy")
    assert row[4] == (f"{top5 * 100:.2f}" if top5 else "-")
    assert ("ten crops" in row[-1]) == ("ten crops" in entry["protocol"])


def test_measured_numbers_are_those_of_the_result_file():
    path = ROOT / "benchmarks" / "results" / "quickstart_2cpu_202611.json"
    result = json.loads(path.read_text())
    deviation = result["top1_accuracy_standard_deviation"] * 100
    run = result["runs"][0]
    sentence = (
        f"the quickstart's small CNN ({run['num_parameters']:,} parameters) reaches "
        f"{result['top1_accuracy_mean'] * 100:.2f} % top-1 (n = {result['n']} seeds, standard "
        f"deviation {deviation:.2f}) on {run['num_samples']:,} held-out pictures of the embedded "
        f"sample, in a median of {result['train_and_evaluate_seconds_median']:.0f} s"
    )
    assert sentence in " ".join(TEXT.split())


def test_the_speed_is_that_of_the_result_file():
    path = ROOT / "benchmarks" / "results" / "input_pipeline_2cpu_202611.json"
    (run,) = (r for r in json.loads(path.read_text())["runs"] if r["data"] == "imagenet-sample")
    ours = run["crop"]["convzoo"]["images_per_second_median"]
    (peer,) = (
        row for name, row in run["crop"].items() if name.startswith("Pillow + torchvision v1")
    )
    low, middle, high = (peer[f"ratio_{key}"] for key in ("min", "median", "max"))
    sentence = (
        f"makes {ours:.0f} crops a second on one CPU thread from ImageNet photographs; "
        f"torchvision's transforms on Pillow pictures need {middle:.2f} [{low:.2f}, {high:.2f}] "
        f"times its CPU time"
    )
    assert sentence in " ".join(TEXT.split())
