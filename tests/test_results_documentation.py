"""docs/results.md tells the truth: its tables are those of result files and quoted results."""

import json
import re
import shlex
import statistics
import tomllib

import pytest

from tests.support.clients import ROOT, run
from tests.support.documents import Page

PAGE = Page("docs/results.md")
QUOTED = tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]


def test_its_own_command_says_that_its_tables_are_up_to_date():
    (command,) = PAGE.commands()
    assert command.startswith("hub-cards index ") and command.endswith("--readme docs/results.md")
    assert f"#     {command}\n" in (ROOT / "benchmarks" / "zoo.toml").read_text()
    run("-m", "hub_cards", *shlex.split(command)[1:], "--check")


@pytest.mark.parametrize(
    "row", [row for row in PAGE.tables() if row["evidence"] == "quoted"], ids=str
)
def test_quoted_rows_are_those_of_the_quoted_results(row):
    name, url = re.fullmatch(r"\[(.*)\]\((.*)\)", row["model"]).groups()
    (entry,) = [entry for entry in QUOTED if (entry["name"], entry["url"]) == (name, url)]
    assert row["family"] == entry["model_type"]
    assert row["parameters"] == f"{entry['num_parameters']:,}"
    assert row["top-1 %"] == f"{entry['top1_accuracy'] * 100:.2f}"
    top5 = entry.get("top5_accuracy")
    assert row["top-5 %"] == (f"{top5 * 100:.2f}" if top5 else "-")


def test_measured_rows_are_means_over_the_runs_of_their_result_files():
    measured = [row for row in PAGE.tables() if row["evidence"].startswith("[measured](")]
    assert measured
    for row in measured:
        path = PAGE.path.parent / row["evidence"][len("[measured](") : -1]
        result = json.loads(path.read_text())
        top1 = [100 * run["top1_accuracy"] for run in result["runs"]]
        mean, deviation, n = re.fullmatch(
            r"([\d.]+)(?: \u00b1 ([\d.]+))? \(n = (\d+)\)", row["top-1 %"]
        ).groups()
        assert int(n) == len(top1)
        assert float(mean) == pytest.approx(statistics.mean(top1), abs=0.0101)  # rounded twice
        if len(top1) > 1:
            assert float(deviation) == pytest.approx(statistics.stdev(top1), abs=0.0101)
        assert row["parameters"] == f"{result['runs'][0]['num_parameters']:,}"


def test_the_fields_of_quoted_results_say_what_their_protocol_says():
    for entry in QUOTED:
        protocol = entry["protocol"]
        assert ("ten crops" in protocol) == (entry.get("views", 1) == 10)
        assert ("one centre crop" in protocol) == (entry.get("views", 1) == 1)
        assert ("resize 256, one" in protocol) == (entry.get("resize") == 256)
        assert ("of 224" in protocol) == (entry.get("crop") == 224)
        means = {"mean of the logits": "logits", "mean of the softmax": "probabilities"}
        said = [mean for words, mean in means.items() if words in protocol]
        assert said == ([entry["averaged"]] if "averaged" in entry else [])
