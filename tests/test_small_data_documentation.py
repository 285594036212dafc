"""docs/small-data.md tells the truth: its figures are those of the result file."""

from convzoo.own_images.presets import FEW
from tests.support.documents import Page, result_file

PAGE = Page("docs/small-data.md")


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_accuracies_of_presets_are_those_that_were_measured():
    measured = result_file("finetune_presets")
    columns = {"250 of CIFAR-10": 1, "2500 of CIFAR-10": 2}
    assert 250 < FEW < 2500
    rows = {row[0]: row for row in PAGE.table("| changed in the preset")}
    shown = 0
    for case in measured["summary"]:
        if case["start"] == "trained" and case["images"] in columns:
            keys = ("mean", "standard_deviation")
            mean, spread = (f"{100 * case[f'top1_accuracy_{key}']:.1f}" for key in keys)
            assert rows[case["change"]][columns[case["images"]]] == f"{mean} \u00b1 {spread}"
            assert case["n"] == (3 if case["images"].startswith("250 ") else 2)
            shown += 1
    assert shown == 2 * len(rows)
    first = measured["top1_accuracy_of_the_first_network_on_its_five_classes"]
    assert f"CIFAR-10 ({100 * first:.1f} % top-1)" in PAGE.sentences
