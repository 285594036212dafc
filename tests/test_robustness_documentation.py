"""docs/robustness.md tells the truth: its figures are those of the result file."""

from tests.support.documents import Page, result_file

PAGE = Page("docs/robustness.md")


def test_the_cost_of_each_corruption_is_what_was_measured():
    measured = result_file("corruption_cost")
    rows = {row[0].strip("`"): row[1:] for row in PAGE.table("| corruption | milliseconds")}
    rows["preparation"] = rows.pop("preparing the image")
    assert rows == {
        name: [
            f"{row['milliseconds']:.1f} \u00b1 {row['standard_deviation']:.1f}",
            f"{row['of_preparation']:.1f}",
        ]
        for name, row in measured["rows"].items()
    }
    costs = [row["milliseconds"] for name, row in measured["rows"].items() if name in rows]
    total = 5 * (sum(costs) - measured["rows"]["preparation"]["milliseconds"]) / 1000
    assert f"All 75 add {total:.2f} s to an image" in PAGE.sentences
    assert f"of {measured['rounds']} rounds over {measured['num_images']} photo" in PAGE.sentences
    assert measured["environment"]["processor"] in PAGE.sentences
