"""docs/data.md tells the truth: its figures are those of the result files."""

from tests.support.documents import Page
from tests.support.documents import result_file as result

PAGE = Page("docs/data.md")
TEXT, SENTENCES, table = PAGE.text, PAGE.sentences, PAGE.table


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_the_shuffling_table_is_that_of_the_result_file():
    assert table("| order | entropy") == [
        [row["order"], f"{row['share_of_perfect'] * 100:.1f} %", str(row["classes_per_batch"])]
        for row in result("shuffle_quality")["rows"]
    ]


def test_the_table_of_openings_is_that_of_the_result_file():
    content = result("read_amplification")
    assert f"{content['layout']['row_groups']:,} row groups" in SENTENCES
    assert f"global batch {content['global_batch_size']:,}" in SENTENCES
    small, large = content["plans"]
    assert f"512 MB, {small['num_lanes']} lanes" in TEXT
    assert f"2048 MB, {large['num_lanes']} lanes" in TEXT
    expected = []
    for processes in (1, 2, 3, 4, 8, 64):
        openings, held = [], []
        for plan in (small, large):
            rows = [row for row in plan["rows"] if row["processes"] == processes]
            assert [row["workers"] for row in rows] == [1, 4, 8]
            openings.append(", ".join(f"{row['later_epoch']:.2f}" for row in rows))
            held.append(rows[1])
        megabytes = [f"{held[0][f'megabytes_held_{key}']:,.0f} MB" for key in ("median", "most")]
        expected.append([str(processes), *openings, f"{megabytes[0]}, at most {megabytes[1]}"])
    assert table("| processes |") == expected


def test_what_is_held_stays_below_the_memory_and_the_most_is_said():
    content = result("read_amplification")
    most = []
    for plan in content["plans"]:
        most.append(max(row["megabytes_held_most"] for row in plan["rows"]))
        assert most[-1] * 1e6 < plan["shuffle_memory_mb"] * 2**20
    sentence = f"is {most[0]:,} MB for 512 MB (537 million bytes) and {most[1]:,} MB for 2048 MB."
    assert sentence in SENTENCES


def test_no_plan_opens_more_than_the_formula_says():
    rows = [row for plan in result("read_amplification")["plans"] for row in plan["rows"]]
    assert all(row["later_epoch"] <= row["bound"] + 0.001 for row in rows)
    more = max(row["first_epoch"] / row["later_epoch"] - 1 for row in rows)
    assert f"The first epoch adds at most {more:.0%}".replace("%", " %") in SENTENCES


def test_the_first_batch_is_that_of_the_result_file():
    content = result("first_batch")
    medians = {key: values[0] for key, values in content["median_and_range"].items()}
    sentence = (
        f"Opening 294 files of 495 MB on a Hub on the same machine, and the first batch of 128 "
        f"crops from them, take {medians['cpu_seconds']:.2f} CPU seconds and read "
        f"{medians['bytes'] / 1e6:.1f} MB (median of {content['n']} fresh processes)"
    )
    assert sentence in SENTENCES


def test_memory_over_the_epochs_is_that_of_the_result_file():
    content = result("loader_memory")
    parts = [
        f"{run['megabytes'][0]:.0f} MB in the first of {len(run['megabytes'])} epochs and "
        f"{run['megabytes'][-1]:.0f} MB in the last with {run['num_workers']} workers"
        for run in content["runs"]
    ]
    for part in parts:
        assert part.replace("with 0 workers", "without workers") in SENTENCES
    halves = [(run["megabytes"][9], run["megabytes"][-1]) for run in content["runs"]]
    assert all((last - middle) / 10 < 0.2 for middle, last in halves)
    assert "grew by less than 0.2 MB an epoch" in SENTENCES
