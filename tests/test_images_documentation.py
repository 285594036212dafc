"""docs/images.md tells the truth: its figures are those of the result file."""

from tests.support.documents import Page, result_file


def test_the_accuracy_of_the_journey_is_the_one_that_was_measured():
    measured = result_file("own_images")
    keys = ("mean", "standard_deviation")
    mean, spread = (f"{100 * measured[f'top1_accuracy_{key}']:.1f}" for key in keys)
    (images,) = {run["validation_images"] for run in measured["runs"]}
    sentence = (
        f"Fresh weights got {mean} \u00b1 {spread} % of the validation share of "
        f"`data/photos` right ({measured['n']} seeds, {images} images each, largest class "
        f"{100 * measured['share_of_largest_class']:.0f} %; all commands "
        f"{measured['processor_seconds_median']:.0f} CPU s)"
    )
    assert sentence in Page("docs/images.md").sentences
