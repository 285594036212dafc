"""The rules that a card must keep."""

import re

import pytest

from hub_cards.card.validation import card_problems
from tests.support.model_folders import put, render


def good_card(folder):
    card = render(folder)
    assert card_problems(card, folder) == []
    return card


BAD_CARDS = {
    "no front matter": (r"\A---\n", "", "must start with metadata"),
    "bad yaml": ("license:", "license: [", "must be valid YAML"),
    "text as metadata": (r"(?s)\A---\n.*?\n---\n", "---\ntext\n---\n", "keys with values"),
    "no license": ("(?m)^license: .*$", "license:", "metadata must have license"),
    "license": ("license: apache-2.0", "license: Apache 2", "license must be .* got 'Apache 2'"),
    "other license": ("license: apache-2.0", "license: other", "'other' needs license_name"),
    "no library": ("library_name: transformers\n", "", "metadata must have library_name"),
    "task": ("pipeline_tag: .*", "pipeline_tag: cats", "pipeline_tag must be a task .* 'cats'"),
    "tags": (r"tags:\n(- \w+\n)+", "tags: vision\n", "tags must be a list of texts"),
    "numbers as tags": ("- vision", "- 12", "tags must be a list of texts"),
    "dataset id": ("- zalando-datasets/", "- a/b/", "datasets must hold Hub ids"),
    "base model": ("license:", "base_model: /models/first\nlicense:", "base_model must be a Hub"),
    "relation": (
        "license:",
        "base_model: a/b\nbase_model_relation: child\nlicense:",
        "base_model_relation must be one of adapter, .* got 'child'",
    ),
    "emissions": (
        "license:",
        "co2_eq_emissions:\n  emissions: little\nlicense:",
        "co2_eq_emissions must be grams, .* got 'little'",
    ),
    "model-index": (r"model-index:\n", "other:\n", None),
    "index no list": ("model-index:", "model-index: 3\nother:", "must be a list of models"),
    "index name": ("- name: cnn-tiny", "- name:", r"model-index\[0\] must have a name"),
    "results": ("  results:", "  results: []\n  other:", r"\[0\].results must be a list"),
    "task type": ("      type: image-classification", "      type:", "must have task.type"),
    "dataset type": ("type: fashion-mnist-sample", "type: Fashion MNIST", "dataset.type must look"),
    "dataset name": ("      name: Fashion-MNIST sample", "      name:", "must have dataset.name"),
    "metrics": ("    metrics:\n", "    metrics: []\n    other:\n", "metrics must be a list"),
    "metric type": ("- type: accuracy", "- type:", r"metrics\[0\] must have a type"),
    "metric text": ("value: 0.75", "value: high", r"metrics\[1\].value must be a finite number"),
    "metric nan": ("value: 0.75", "value: .nan", r"metrics\[1\].value must be a finite number"),
    "metric percent": ("value: 0.75", "value: 75.0", r"must be a fraction in \[0, 1\]; got 75.0"),
    "metric twice": ("name: Top-5 accuracy", "name: Top-1 accuracy", "two metrics"),
    "section": (
        "## Limitations and bias",
        "## Limits",
        "section 'Limitations and bias' is missing",
    ),
    "empty section": ("(?s)(## License\n).*?(<!--)", r"\1\n\2", "section 'License' is empty"),
    "half measured": ("Not measured.", "Not measured. About 1 kg.", "'Not measured.' alone"),
    "template text": (
        "# cnn-tiny",
        "# [More Information Needed]",
        "says 'More Information Needed'",
    ),
    "user name": ("# cnn-tiny", "# your-username/cnn", "says 'your-username'"),
    "todo": ("# cnn-tiny", "# TODO", "says 'TODO'"),
    "template code": ("# cnn-tiny", "# {{ title }}", "says '{{'"),
    "path": ("photo.jpg", "path/to/photo.jpg", "says 'path/to/'"),
    "None cell": (r"\| 2.25 \|", "| None |", "a table has the cell 'None'"),
    "nan cell": (r"\| 2.25 \|", "| nan |", "a table has the cell 'nan'"),
    "image": (r"\(training_curve.png\)", "(curve.png)", "link to curve.png, which is not in"),
    "link": (r"\(recipe.toml\)", "(../recipe.toml)", "link to ../recipe.toml"),
    "absolute link": (r"\(recipe.toml\)", "(/etc/hostname)", "link to /etc/hostname"),
    "anchor": (r"\(recipe.toml\)", "(#recipes)", "link to #recipes, which is no heading"),
    "page of the Hub": (
        r"\(recipe.toml\)",
        "(https://huggingface.co/user/model/blob)",
        "link to https://huggingface.co/user/model/blob, which is no page of the Hub",
    ),
    "html image": ("# cnn-tiny", '# x\n<img src="logo.png">', "link to logo.png"),
}


@pytest.mark.parametrize("case", BAD_CARDS)
def test_the_validator_finds(full, case):
    pattern, replacement, message = BAD_CARDS[case]
    bad, count = re.subn(pattern, replacement, good_card(full), count=1)
    assert count == 1
    problems = card_problems(bad, full)
    if message is None:  # a card without results is a good card, too
        assert problems == []
    else:
        assert len(problems) == 1 and re.search(message, problems[0])


def test_links_to_headings_and_to_the_hub_are_good(full):
    pages = ["user/m", "datasets/mnist", "datasets/user/d#files", "user/m/tree/0a1b2c", "docs/hub"]
    links = [f"https://huggingface.co/{page}" for page in pages] + ["#model-details"]
    text = " ".join(f"[a]({link})" for link in links)
    card = good_card(full).replace("## License\n", f"## License\n\n{text}\n")
    assert card_problems(card, full) == []


def test_the_validator_lists_all_problems(full):
    bad = (
        good_card(full).replace("license: apache-2.0", "license: x").replace("# cnn-tiny", "# TBD")
    )
    assert len(card_problems(bad, full)) == 2


def test_the_validator_accepts_other_license_with_name_and_file(full):
    named = good_card(full).replace("license: apache-2.0", "license: other\nlicense_name: mine")
    assert "LICENSE" in card_problems(named, full)[0]
    put(full, "LICENSE", "text")
    assert card_problems(named, full) == []


def test_links_and_cells_in_code_are_not_checked(full):
    code = "```\n[a](missing.md)\n| None | nan |\n```\n"
    card = good_card(full).replace("## License\n", f"## License\n\n{code}")
    assert card_problems(card, full) == []
