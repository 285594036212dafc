"""docs/comparing-models.md tells the truth: its example is that of the result file."""

import re

import numpy as np
import pytest
from scipy import stats

from tests.support.documents import Page, result_file

PAGE = Page("docs/comparing-models.md")


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


FILES = {"CIFAR-10": "cifar10_cnn_prelu", "Fashion-MNIST": "quickstart"}
VERDICTS = {"not told apart": "do not tell", "PReLU is better": "use_prelu=True is better"}


def test_the_example_is_what_was_measured():
    rows = {row[0]: row[1:] for row in PAGE.table("| data | PReLU | ReLU |")}
    for data, name in FILES.items():
        measured = result_file(f"prelu_or_relu_{name}")
        prelu, relu = measured["seeds"]["recipes"]
        (pair,) = measured["seeds"]["pairs"]
        assert prelu["n"] == relu["n"] == 5 and "True" in prelu["name"]
        *means, difference, interval, p_value, verdict = rows[data]
        for shown, recipe in zip(means, (prelu, relu), strict=True):
            values = recipe["top1_accuracy_mean"], recipe["top1_accuracy_standard_deviation"]
            assert shown == " \u00b1 ".join(f"{100 * value:.2f}" for value in values)
        assert difference == f"{100 * pair['difference']:.2f}"
        assert interval == " to ".join(f"{100 * value:+.2f}" for value in pair["interval_95"])
        assert p_value == f"{pair['p_value']:.4f}" and VERDICTS[verdict] in measured["verdict"]


def test_single_trainings_say_what_the_page_says_of_them():
    singles = [
        pair
        for pair in result_file("prelu_or_relu_cifar10_cnn_prelu")["pairs"]
        if pair["first"].startswith("prelu") and pair["second"].startswith("relu")
    ]
    told = [pair["difference"] for pair in singles if pair["p_value"] < 0.05]
    counts = len(singles), sum(x > 0 for x in told), sum(x < 0 for x in told)
    stated = re.search(r"(\d+) pairs .*?: (\d+) .*?, (\d+) that", PAGE.sentences)
    assert tuple(map(int, stated.groups())) == counts
    assert round(100 * max(told)) == round(-100 * min(told)) == 3


@pytest.mark.parametrize("name", FILES.values())
def test_p_values_agree_with_welchs_test(name):
    measured = result_file(f"prelu_or_relu_{name}")
    accuracies = {model["name"]: model["top1_accuracy"] for model in measured["models"]}
    groups = [
        np.array([value for name, value in accuracies.items() if name.startswith(activation)])
        for activation in ("prelu", "relu")
    ]
    (pair,) = measured["seeds"]["pairs"]
    welch = stats.ttest_ind(*groups, equal_var=False).pvalue
    assert abs(pair["p_value"] - welch) < 0.02  # images add little to the spread of seeds here
