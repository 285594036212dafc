"""The zoo's tables: which numbers stand together, where they come from, and what is left alone."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hub_cards.cli import main
from hub_cards.index.org_card import org_card_problems
from hub_cards.index.plot import INK
from hub_cards.index.rows import read_rows
from hub_cards.index.tables import make_tables, put_tables, render_tables
from tests.support.clients import ROOT
from tests.support.hub_server import HubServer, card_errors, front_matter
from tests.support.model_folders import (
    DATASET,
    NAMES,
    NUM_PARAMETERS,
    PLACES,
    PREPROCESSOR,
    make_bare,
    make_model,
    put,
    put_results,
    result,
    weights_hash,
)

BEGIN, END = "<!-- zoo table: begin -->", "<!-- zoo table: end -->"
QUOTED = "hub_cards/quoted_results.toml"


def grids(text):
    """{title: rows} of the tables in a text, each row a {column: cell}."""
    found = {}
    for title, grid in re.findall(r"^(\S.*):\n\n((?:\|.*\n)+)", text + "\n", re.MULTILINE):
        lines = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in grid.splitlines()]
        found[title] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def tables_of(*sources):
    return grids(render_tables(make_tables(read_rows([str(source) for source in sources]))))


def test_models_of_one_test_stand_in_one_table_the_best_first(tmp_path):
    tables = tables_of(
        make_model(tmp_path, "worse", 80),
        make_model(tmp_path, "better", 81, family="alexnet"),
        make_model(tmp_path, "best", 200, family="qlnet"),
    )
    place = "[user/colours](https://huggingface.co/datasets/user/colours)"
    ((title, rows),) = tables.items()
    assert title == f"{place}, split `test`, 263 images, one view"
    assert [row["model"] for row in rows] == ["`best`", "`better`", "`worse`"]
    assert [row["family"] for row in rows] == ["qlnet", "alexnet", "cnn"]
    assert [row["top-1 %"] for row in rows] == ["76.05", "30.80", "30.42"]
    assert rows[0]["parameters"] == f"{NUM_PARAMETERS:,}"
    assert rows[0]["image size"] == "224 of 235"
    assert (rows[0]["evidence"], rows[0]["licence"]) == ("measured", "mit")


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": DATASET | PLACES | {"split": "train"}},
        {"dataset": DATASET | PLACES | {"id": "other/colours"}},
        {"dataset": DATASET | PLACES | {"config": "grey"}},
        {"dataset": DATASET | PLACES | {"fingerprint": "sha256:" + "0b" * 32}},
        {"dataset": DATASET | PLACES | {"subset": {"of": 526, "taken": []}}},
        {"protocol": {"views": 10, "averaged": "probabilities", "image_processor": PREPROCESSOR}},
        {"protocol": {"views": 1, "exif_rotation": True, "image_processor": PREPROCESSOR}},
        {
            "protocol": {
                "views": 1,
                "image_processor": PREPROCESSOR | {"size": {"shortest_edge": 300}},
            }
        },
    ],
    ids=["split", "id", "config", "images", "part", "ten crops", "rotated", "other size"],
)
def test_results_that_cannot_be_compared_stand_in_different_tables(changes, tmp_path):
    tables = tables_of(
        make_model(tmp_path, "one", 81), make_model(tmp_path, "other", 82, **changes)
    )
    assert [len(rows) for rows in tables.values()] == [1, 1]  # so their titles differ, too


def test_intervals_and_multiply_adds_are_those_of_the_result_file(tmp_path):
    model = make_bare(tmp_path / "model")
    measured = result(model)
    measured["model"]["num_multiply_adds"] = 4_100_000
    put_results(model, measured)
    ((_, (row,)),) = tables_of(model).items()
    assert row["top-1 %"] == "30.80 [25.53, 36.62]"  # Newcombe 1998, table I
    assert row["multiply-adds"] == "4.1 M"


def test_the_speed_of_a_benchmark_has_a_column_where_one_was_measured(tmp_path):
    models = [make_model(tmp_path, "fast", 200), make_model(tmp_path, "unmeasured", 80)]
    assert "speed" not in tables_of(models[1]).popitem()[1][0]
    row = {"batch_size": 8, "dtype": "bfloat16", "preparation": "fused", "is_model": True}
    speed = {
        "model": {"sha256": weights_hash(models[0]), "num_multiply_adds": 4_100_000},
        "rows": [row | {"images_per_second": 1234.56}],
        "threads": 2,
        "environment": {"processor": "EPYC", "accelerator": None},
    }
    put(models[0], "speed_results.json", speed)
    ((_, rows),) = tables_of(*models).items()
    assert [row["speed"] for row in rows] == [
        "1,234.6 images per second (batch 8, bfloat16, fused; EPYC, 2 threads)",
        "-",
    ]
    assert rows[0]["multiply-adds"] == "4.1 M"


def test_a_model_without_results_is_named(tmp_path, capsys):
    assert main(["index", str(make_bare(tmp_path / "bare"))]) == 1
    assert "bare must have results in eval_results.json" in capsys.readouterr().err


def test_quoted_rows_are_marked_and_stand_by_their_protocol():
    tables = tables_of(ROOT / QUOTED)
    assert [title.partition("images, ")[2] for title in tables] == [
        "one view",
        "10 views, mean of the logits",
        "10 views, mean of the probabilities",
    ]
    rows = [row for table in tables.values() for row in table]
    assert len(rows) == 7 and {row["evidence"] for row in rows} == {"quoted"}
    (best, *_), _, (paper,) = tables.values()
    assert (best["top-1 %"], best["top-5 %"], best["licence"]) == ("78.61", "-", "apache-2.0")
    assert paper["top-1 %"] == "59.30" and "licence" not in paper


def test_a_benchmark_is_shown_with_its_deviation_over_seeds(tmp_path):
    runs = [
        {"top1_accuracy": 0.5 + seed / 10, "top5_accuracy": 0.9, "num_parameters": 1234}
        | {"dataset": PLACES, "num_samples": 60}
        for seed in range(2)
    ]
    record = {"top1_accuracy_mean": 0.55, "top1_accuracy_standard_deviation": 0.0707, "runs": runs}
    put(tmp_path, "result.json", record)
    recipe = '[model]\nmodel_type = "cnn"\n[data]\neval_split = "test"\n'
    put(tmp_path, "recipe.toml", recipe + "[preprocessing]\nresize = 36\ncrop = 32\n")
    entry = '[[results]]\nname = "a [small] `one`"\nfile = "result.json"\nrecipe = "recipe.toml"\n'
    put(tmp_path, "zoo.toml", entry)
    put(tmp_path, "README.md", f"{BEGIN}\n{END}\n")
    readme = tmp_path / "README.md"
    assert main(["index", str(tmp_path / "zoo.toml"), "--readme", str(readme)]) == 0
    ((title, (row,)),) = grids(readme.read_text(encoding="utf-8")).items()
    assert title.endswith("split `test`, 60 images, one view")
    assert row["model"] == r"a \[small\] \`one\`"
    assert row["top-1 %"] == "55.00 \u00b1 7.07 (n = 2)" and row["top-5 %"] == "90.00 (n = 2)"
    assert row["image size"] == "32 of 36" and row["evidence"] == "[measured](result.json)"
    put(tmp_path, "result.json", record | {"runs": [{}]})
    assert main(["index", str(tmp_path / "zoo.toml")]) == 1


# Into a file


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_the_text_between_the_markers_changes(newline, tmp_path):
    before = newline.join(["# Mine  ", f"In prose, {BEGIN} is no marker.", "", ""]).encode()
    after = newline.join(["", "\u00e9nd | of it", "\t"]).encode()
    readme = tmp_path / "README.md"
    marks = [mark.encode() for mark in (BEGIN, END)]
    old = f"old{newline}".encode()
    readme.write_bytes(before + marks[0] + newline.encode() + old + marks[1] + after)
    command = ["index", str(make_model(tmp_path, "model", 81)), "--readme", str(readme)]
    assert main([*command, "--check"]) == 1
    assert old in readme.read_bytes()
    assert main(command) == 0
    text = readme.read_bytes()
    assert text.startswith(before + marks[0]) and text.endswith(marks[1] + after)
    assert b"30.80" in text and old not in text
    assert text.count(b"\r\n") == (text.count(b"\n") if newline == "\r\n" else 0)
    assert main([*command, "--check"]) == 0
    assert main(command) == 0 and readme.read_bytes() == text


@pytest.mark.parametrize(
    "text",
    ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{END}", f"{BEGIN}\n{BEGIN}\n{END}\n{END}"],
)
def test_markers_must_be_there_once_each_and_in_order(text):
    with pytest.raises(ValueError, match=r"FILE.md must have the lines .* once each, in this"):
        put_tables(text, "tables", where="FILE.md")


def test_a_check_without_a_file_is_an_error(tmp_path, capsys):
    assert main(["index", str(ROOT / QUOTED), "--check"]) == 1
    assert "--readme FILE" in capsys.readouterr().err


def test_the_organization_card_passes_the_hubs_rules_and_keeps_its_words(tmp_path, capsys):
    card = tmp_path / "README.md"
    command = ["index", str(make_model(tmp_path, "model", 81)), "--org-card", str(card)]
    assert main([*command, "--check"]) == 1 and not card.exists()
    assert main(command) == 0 and main([*command, "--check"]) == 0
    text = card.read_text(encoding="utf-8")
    metadata = front_matter(text)
    assert card_errors(metadata, "space") == []
    assert (metadata["title"], metadata["sdk"], metadata["pinned"]) == ("README", "static", False)
    assert "30.80" in text
    card.write_text(
        text.replace("# Image classifiers", "# Ours").replace("30.80", "99.99"), "utf-8"
    )
    assert main(command) == 0
    assert card.read_text("utf-8") == text.replace("# Image classifiers", "# Ours")
    card.write_text(text.replace("blue", "azure"), "utf-8")
    assert main(command) == 1
    assert "colorFrom must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("emoji:", "emoj:", "metadata must have emoji"),
        ("sdk: static", "sdk: gradio", "sdk must be one of static"),
        ("pinned: false", "pinned: perhaps", "pinned must be true or false"),
        ("---\n", "", "the card must start with"),
        ("title: README", "title: [", "valid YAML"),
    ],
)
def test_an_organization_card_that_breaks_a_rule_is_named(old, new, problem):
    good = (ROOT / "hub_cards" / "index" / "org_card.md").read_text(encoding="utf-8")
    assert org_card_problems(good) == []
    (found,) = org_card_problems(good.replace(old, new))
    assert problem in found


# As an image


def luminance(colour):
    """Relative luminance, WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_the_image_can_be_read_on_light_and_dark_pages(page, tmp_path):
    bright, dark = sorted((luminance(INK), luminance(page)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3  # what WCAG asks of graphics
    assert main(["index", str(ROOT / QUOTED), "--plot", str(tmp_path / "zoo.png")]) == 0
    plot = Image.open(tmp_path / "zoo.png").convert("RGBA")
    transparent = sum(plot.getchannel("A").point(lambda a: a == 0).histogram()[1:])
    assert transparent > 0.8 * plot.width * plot.height
    colours = {pixel[:3] for _, pixel in plot.getcolors(1 << 20) if pixel[3] == 255}
    assert (128, 128, 128) in colours and (31, 119, 180) in colours  # ink, first model


# From the Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub"), {"hf_user": "user"}) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Of the client, with what it keeps of the Hub."""
    return tmp_path_factory.mktemp("client") / "home"


def make_hub_model(hub, folder, name, correct, weights_bytes=0, **settings):
    """A model on the Hub, with weights of that size."""
    model = make_model(folder, name, correct)
    if weights_bytes:
        tensors = {"all": torch.zeros(weights_bytes, dtype=torch.uint8)}
        save_file(tensors, model / "model.safetensors")
        measured = result(model, dataset=DATASET | PLACES)
        measured["model"]["num_parameters"] = weights_bytes
        put_results(model, measured)
    put(model, "README.md", "---\nlicense: bsd-3-clause\n---\n# A card\n")
    return hub.add_repo("models", f"user/{name}", model, **settings)


def index(hub, home, *arguments, check=True):
    about = {"home": home, "token": "hf_user", "cwd": home.parent, "check": check}
    return hub.run_warm("-m", "hub_cards", "index", *arguments, **about)


def test_a_hub_model_is_read_at_one_commit_without_its_weights(hub, home, tmp_path):
    commit = make_hub_model(hub, tmp_path, "large", 0, weights_bytes=3_000_000, private=True)
    journal = len(hub.journal)
    done = index(hub, home, "user/large")
    ((_, (row,)),) = grids(done.stdout).items()
    page = "https://huggingface.co/user/large"
    assert row["model"] == f"[user/large]({page}) at [{commit[:7]}]({page}/tree/{commit})"
    assert row["parameters"] == "3,000,000" and row["top-1 %"].startswith("30.80 [")
    assert row["licence"] == "bsd-3-clause"
    asked = [one for one in hub.journal[journal:] if "/resolve/" in one.path]
    assert {one.path.split("/")[4] for one in asked} == {commit}
    names = {one.path.split("/")[-1] for one in asked}
    assert names == {
        *("config.json", "preprocessor_config.json", "eval_results.json", "recipe.toml"),
        "model.safetensors",
    }
    assert sum(one.sent for one in hub.journal[journal:]) < 120_000
    assert "Fetching" not in done.stderr  # no progress bars


def test_an_older_commit_can_be_named(hub, home, tmp_path):
    first = make_hub_model(hub, tmp_path, "twice", 81)
    model = tmp_path / "twice"
    put_results(model, result(model, metrics={"top1_accuracy": 100 / 263}))
    hub.add_commit("models", "user/twice", model)
    done = index(hub, home, "user/twice", f"user/twice@{first}")
    values = [row["top-1 %"] for rows in grids(done.stdout).values() for row in rows]
    assert sorted(values) == ["30.80", "38.02"]


def test_results_of_other_weights_are_refused_on_the_hub_too(hub, home, tmp_path):
    make_hub_model(hub, tmp_path, "stale", 81)
    save_file({"classifier.bias": torch.ones(5)}, tmp_path / "stale" / "model.safetensors")
    hub.add_commit("models", "user/stale", tmp_path / "stale")
    done = index(hub, home, "user/stale", check=False)
    assert done.returncode == 1 and "is stale" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("repo_id", ["user/nothing", "nothing"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_named(repo_id, hub, home, tmp_path):
    done = index(hub, home, repo_id, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {repo_id} ")
    assert len(done.stderr.splitlines()) == 1


def test_a_failing_hub_is_one_line(hub, home, tmp_path):
    make_hub_model(hub, tmp_path, "failing", 81)
    for pattern in ("GET /api/models/user/failing", "HEAD /user/failing/resolve/.*config.json"):
        fault = hub.fail(pattern, status=418, times=99)  # nothing that the client tries again
        done = index(hub, home, "user/failing", check=False)
        fault.times = 0
        assert done.returncode == 1 and "HTTP 418" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_folders_and_hub_models_share_a_table(hub, home, tmp_path):
    make_hub_model(hub, tmp_path, "shared", 81)
    local = make_model(tmp_path, "local", 90)
    shutil.rmtree(tmp_path / "shared")
    done = index(hub, home, "user/shared", local)
    ((_, rows),) = grids(done.stdout).items()
    assert [row["top-1 %"] for row in rows] == ["34.22", "30.80"]
    assert json.loads((local / "config.json").read_text())["id2label"]["0"] == NAMES[0]
