"""docs/comparing-models.md tells the truth: its example is that of the result file."""

import re

import numpy as np
from scipy import stats

from tests.support.documents import Page, result_file

PAGE = Page("docs/comparing-models.md")


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_the_example_is_what_was_measured():
    measured = result_file("prelu_or_relu_cifar10_cnn_prelu")
    rows = PAGE.table("| activation |")
    for row, recipe in zip(rows, measured["seeds"]["recipes"], strict=True):
        assert recipe["n"] == 5
        mean, spread = recipe["top1_accuracy_mean"], recipe["top1_accuracy_standard_deviation"]
        low, high = recipe["interval_95"]
        assert row[1:] == [
            f"{mean:.2%} \u00b1 {spread:.2%}".replace("%", ""),
            f"{low:.2%} to {high:.2%}".replace("%", ""),
        ]
    assert measured["verdict"] in PAGE.sentences.replace("> ", "")
    singles = [
        pair
        for pair in measured["pairs"]
        if pair["first"].startswith("prelu") and pair["second"].startswith("relu")
    ]
    better = [pair["difference"] for pair in singles if pair["p_value"] < 0.05]
    counts = len(singles), sum(x > 0 for x in better), sum(x < 0 for x in better)
    assert (
        tuple(
            map(int, re.search(r"(\d+) pairs .*?: (\d+) .*?, (\d+) that", PAGE.sentences).groups())
        )
        == counts
    )
    assert round(100 * max(better)) == round(-100 * min(better)) == 3


def test_its_verdict_agrees_with_welchs_test():
    measured = result_file("prelu_or_relu_cifar10_cnn_prelu")
    accuracies = {model["name"]: model["top1_accuracy"] for model in measured["models"]}
    groups = [
        np.array([value for name, value in accuracies.items() if name.startswith(activation)])
        for activation in ("prelu", "relu")
    ]
    (pair,) = measured["seeds"]["pairs"]
    welch = stats.ttest_ind(*groups, equal_var=False).pvalue
    assert abs(pair["p_value"] - welch) < 0.02  # images add little to the spread of seeds here
