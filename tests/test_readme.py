"""The README tells the truth: its paths, commands, table and code."""

import json
import re
import shlex
import statistics
import tomllib

import pytest

from tests.support.clients import ROOT, run
from tests.support.documents import result_file

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands():
    lines = [
        line.partition("  #")[0].strip() for block in blocks("bash") for line in block.split("\n")
    ]
    return [line for line in lines if line]


def test_it_fits_on_150_lines_without_its_tables():
    tables = re.search(r"<!-- zoo table: begin -->.*zoo table: end -->", TEXT, re.DOTALL)[0]
    assert TEXT.count("\n") - tables.count("\n") <= 150


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


def test_ci_runs_the_readmes_two_commands():
    assert {"make quickstart", "make test"} <= set(commands())
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["make quickstart", "exec make test"]


def rows():
    """Cells by column of every line of the zoo's tables."""
    tables = re.search(r"zoo table: begin -->\n(.*)<!-- zoo table: end", TEXT, re.DOTALL)[1]
    for grid in re.findall(r"(?:^\|.*\n)+", tables, re.MULTILINE):
        header, _, *lines = [
            [cell.strip() for cell in line.strip("|").split(" | ")] for line in grid.splitlines()
        ]
        yield from (dict(zip(header, line, strict=True)) for line in lines)


def test_the_readmes_own_command_says_that_its_tables_are_up_to_date():
    (command,) = [one for one in commands() if one.startswith("python -m hub_cards index")]
    assert command.endswith("--readme README.md")
    run(*shlex.split(command)[1:], "--check")


@pytest.mark.parametrize("row", [row for row in rows() if row["evidence"] == "quoted"], ids=str)
def test_quoted_rows_are_those_of_the_quoted_results(row):
    quoted = tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]
    name, url = re.fullmatch(r"\[(.*)\]\((.*)\)", row["model"]).groups()
    (entry,) = [entry for entry in quoted if (entry["name"], entry["url"]) == (name, url)]
    assert row["family"] == entry["model_type"]
    assert row["parameters"] == f"{entry['num_parameters']:,}"
    assert row["top-1 %"] == f"{entry['top1_accuracy'] * 100:.2f}"
    top5 = entry.get("top5_accuracy")
    assert row["top-5 %"] == (f"{top5 * 100:.2f}" if top5 else "-")


def test_measured_rows_are_means_over_the_runs_of_their_result_files():
    measured = [row for row in rows() if row["evidence"].startswith("[measured](")]
    assert measured
    for row in measured:
        result = json.loads((ROOT / row["evidence"][len("[measured](") : -1]).read_text())
        top1 = [100 * run["top1_accuracy"] for run in result["runs"]]
        mean, deviation, n = re.fullmatch(
            r"([\d.]+)(?: \u00b1 ([\d.]+))? \(n = (\d+)\)", row["top-1 %"]
        ).groups()
        assert int(n) == len(top1)
        assert float(mean) == pytest.approx(statistics.mean(top1), abs=0.0101)  # rounded twice
        if len(top1) > 1:
            assert float(deviation) == pytest.approx(statistics.stdev(top1), abs=0.0101)
        assert row["parameters"] == f"{result['runs'][0]['num_parameters']:,}"


def test_the_duration_is_that_of_the_result_file():
    path = ROOT / "benchmarks" / "results" / "quickstart_2cpu_202611.json"
    median = json.loads(path.read_text())["train_and_evaluate_seconds_median"]
    assert f"the quickstart takes a median of {median:.0f} s" in " ".join(TEXT.split())


def test_the_fields_of_quoted_results_say_what_their_protocol_says():
    for entry in tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]:
        protocol = entry["protocol"]
        assert ("ten crops" in protocol) == (entry.get("views", 1) == 10)
        assert ("one centre crop" in protocol) == (entry.get("views", 1) == 1)
        assert ("resize 256, one" in protocol) == (entry.get("resize") == 256)
        assert ("of 224" in protocol) == (entry.get("crop") == 224)
        means = {"mean of the logits": "logits", "mean of the softmax": "probabilities"}
        said = [mean for words, mean in means.items() if words in protocol]
        assert said == ([entry["averaged"]] if "averaged" in entry else [])


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
        f"torchvision's transforms on Pillow images need {middle:.2f} [{low:.2f}, {high:.2f}] "
        f"times its CPU time"
    )
    assert sentence in " ".join(TEXT.split())


def test_the_time_of_a_step_is_that_of_the_result_files():
    here, elsewhere = (
        {
            row["network"]: "{:.2f} [{:.2f}, {:.2f}]".format(*row["speed_over_peer"])
            for row in result_file(name)["rows"]
        }
        for name in ("training_step_avx2", "training_step_cpu")
    )
    peer = "Transformers ResNet-50"
    for sentence in (
        f"a training step of the CNN (PReLU) is {here['CNN, PReLU']} times as fast as one of "
        f"Transformers' ResNet-50 as its examples train it, QLNet's {here['QLNet']} times",
        f"compiled it is {here['CNN, PReLU, compiled']} times as fast, Transformers' "
        f"{here[f'{peer}, compiled']} times",
        f"on another one, with PyTorch's PReLU, the CNN was {elsewhere['CNN, PReLU']} times as",
        f"with our settings is {here[f'{peer}, our settings']} times as fast as its examples "
        f"train it, our CNN with ReLU {here['CNN, ReLU']} times, with PyTorch's PReLU "
        f"{here['CNN, PReLU of PyTorch']} times",
    ):
        assert sentence in " ".join(TEXT.split())
