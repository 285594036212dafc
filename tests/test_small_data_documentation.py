"""docs/small-data.md tells the truth: its figures are those of the result file."""

from convzoo.own_images.presets import FEW
from tests.support.documents import Page, result_file

PAGE = Page("docs/small-data.md")
TABLES = {
    ("fresh", "photographs"): "| photographs",
    ("trained", "250 of CIFAR-10"): "| 250 images",
    ("trained", "2500 of CIFAR-10"): "| 2,500 images",
}


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_accuracies_of_presets_are_those_that_were_measured():
    measured = result_file("finetune_presets")
    assert 250 < FEW < 2500
    shown = []
    for (start, images), heading in TABLES.items():
        cases = [c for c in measured["summary"] if (c["start"], c["images"]) == (start, images)]
        for case in cases:
            keys = ("mean", "standard_deviation")
            mean, spread = (f"{100 * case[f'top1_accuracy_{key}']:.1f}" for key in keys)
            row = [case["change"] or "nothing", f"{mean} \u00b1 {spread}", str(case["n"])]
            shown.append([*row, f"{case['processor_seconds_mean']:.0f}"])
        rows = [[cell.replace(" (preset)", "") for cell in row] for row in PAGE.table(heading)]
        assert rows == shown[-len(cases) :]
    assert len(shown) == len(measured["summary"])
    first = measured["top1_accuracy_of_the_first_network_on_its_five_classes"]
    assert f"CIFAR-10 ({100 * first:.1f} % top-1)" in PAGE.sentences
