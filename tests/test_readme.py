"""The README tells the truth: its paths, code, table and figures."""

import json
import re

import pytest

from tests.support.clients import ROOT
from tests.support.documents import Page, result_file

PAGE = Page("README.md")
TEXT = PAGE.text


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)[1]


def test_it_is_short():
    assert TEXT.count("\n") <= 100
    assert len(re.sub(r"\]\([^)]*\)", "]", TEXT).split()) <= 720


def test_it_says_plainly_what_was_not_done():
    assert "No ImageNet run of ours exists yet, and nothing here has run on a GPU" in TEXT


def test_the_map_matches_the_repository():
    (tree,) = re.findall(r"```\n(.*?)```", section("The map"), flags=re.DOTALL)
    named = re.findall(r"^([\w./]+) ", tree, flags=re.MULTILINE)
    for name in named:
        assert (ROOT / name).exists(), name
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"tests"} <= {name.strip("/") for name in named}
    rooms = {path.parent.name for path in (ROOT / "convzoo").glob("*/__init__.py")}
    assert "docs/architecture.md has its rooms" in tree
    assert rooms <= set(re.findall(r"\w+", (ROOT / "docs" / "architecture.md").read_text()))


def test_ci_runs_the_readmes_two_commands():
    assert {"make quickstart", "make test"} <= set(PAGE.commands())
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["make quickstart", "exec make test"]


def test_the_printed_output_is_what_its_code_prints_of_this_image():
    """tests/test_end_to_end.py runs the code; here the form of what stands below it is checked."""
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", TEXT, re.DOTALL).groups()
    lines = [re.fullmatch(r"(\d+)%  (.+)", line).groups() for line in printed.splitlines()]
    scores, names = [int(score) for score, _ in lines], [name for _, name in lines]
    assert f"top_k={len(lines)}" in code
    assert scores == sorted(scores, reverse=True) and sum(scores) <= 101
    card = (ROOT / "data" / "fashion-mnist" / "README.md").read_text()
    assert set(names) <= set(re.findall(r"^ +'\d': (.+)$", card, re.MULTILINE))
    assert re.search(r"\d_(\w+)\.png", code)[1] == names[0].lower().replace(" ", "_")


def test_the_table_repeats_rows_of_the_results():
    """tests/test_results_documentation.py compares those with files and quoted results."""
    results = Page("docs/results.md").text
    rows = list(PAGE.tables())
    assert {row["evidence"][:9] for row in rows} == {"quoted", "[measured"}
    for row in rows:
        evidence = row["evidence"].replace("](", "](../")
        (line,) = [line for line in results.splitlines() if line.startswith(f"| {row['model']} |")]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        for cell in (row["parameters"], row["top-1 %"], evidence):
            assert cell in cells, row
        title = [
            each for each in results[: results.index(line)].splitlines() if ", split `" in each
        ]
        assert row["data"].lower() in title[-1].lower()


def test_the_quickstart_takes_and_reaches_what_its_result_file_says():
    content = result_file("quickstart_2cpu")
    for part in (
        f"takes a median of {content['train_and_evaluate_seconds_median']:.0f} s on two CPU cores",
        f"reaches {100 * content['top1_accuracy_mean']:.2f} % top-1",
    ):
        assert part in PAGE.sentences
    assert content["n"] == 3 and content["environment"]["cpu_count"] == 2


REASONS = [line[2:] for line in section("Why").splitlines() if line.startswith("- ")]


def test_five_reasons_of_fifteen_words_each_name_a_result_file():
    assert len(REASONS) == 5
    for reason in REASONS:
        words, (link,) = re.sub(r"\]\([^)]*\)", "]", reason), re.findall(r"\]\(([^)]+)\)", reason)
        assert len(words.split()) <= 15, reason
        assert link.startswith("benchmarks/results/") and json.loads((ROOT / link).read_text())


def of_input():
    (run,) = (
        r for r in result_file("input_pipeline_2cpu")["runs"] if r["data"] == "imagenet-sample"
    )
    (peer,) = (row for name, row in run["crop"].items() if name.startswith("Pillow + torchvision"))
    return f"[{peer['ratio_median']:.2f} times]"


def of_training():
    rows = {row["network"]: row for row in result_file("training_step_avx2")["rows"]}
    return f"[{rows['CNN, PReLU']['speed_over_peer'][0]:.2f} times]"


def of_order():
    rows = {
        row["order"]: row["classes_per_batch"] for row in result_file("shuffle_quality")["rows"]
    }
    (buffer,) = (name for name in rows if "(506 MB)" in name)
    assert f"; an equally large shuffle buffer gives {rows[buffer]}." in REASONS[2]
    return f"[{rows['ours, 512 MB']} classes]"


def of_processes():
    rows = result_file("processes_2cpu")["rows"]
    assert [row["processes"] for row in rows] == [1, 2, 4]
    assert max(row["largest_relative_difference_of_a_loss"] for row in rows) <= 5e-6
    return "two or four repeat one process's losses within [five millionths]"


def of_augmentation():
    table = result_file("augmentation_parity")["table"]
    pixels = table[1 : table.index("")]
    rows = [line.split() for line in pixels if "normalised pixels" not in line]
    assert len(rows) > 40 and all(row[-1] == "0" for row in rows)
    assert {row[0] for row in rows} == {"timm", "torchvision"}
    return "timm's and torchvision's operations, [pixel for pixel]"


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("Input", of_input),
        ("Training", of_training),
        ("Order", of_order),
        ("Processes", of_processes),
        ("Augmentation", of_augmentation),
    ],
)
def test_a_reason_is_the_figure_of_its_result_file(name, figure):
    (reason,) = [each for each in REASONS if each.startswith(f"{name}: ")]
    assert figure() in reason
