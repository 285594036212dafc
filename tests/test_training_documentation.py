"""docs/training.md tells the truth: figures are those of the result files, keys exist."""

import dataclasses
import re

from convzoo import health
from convzoo.recipe.settings import MONITORS, Recipe
from modeling import FAMILIES
from tests.support.documents import Page, result_file

PAGE = Page("docs/training.md")


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_every_key_it_names_is_a_setting():
    sections = {section.name: section.type for section in dataclasses.fields(Recipe)}
    named = re.findall(rf"`({'|'.join(sections)})\.(\w+)(?:=\w+)?`", PAGE.text)
    assert len(named) > 20
    for section, key in named:
        fields = {field.name for field in dataclasses.fields(sections[section])}
        if section == "model":
            fields |= {name for family in FAMILIES for name in family.__annotations__}
        assert key in fields, f"{section}.{key}"


def test_the_time_of_a_step_is_that_of_the_result_file():
    content = result_file("training_step_avx2")
    assert content["threads"] == 1 and f"{content['batch_size']} images of 224" in PAGE.sentences
    assert f"takes {content['data_milliseconds_per_image']} more" in PAGE.sentences
    assert f"median of {content['n']} rounds" in PAGE.sentences
    expected = []
    for row in content["rows"]:
        parts = [
            str(row["milliseconds_per_image"][p]) for p in ("forward", "backward", "optimizer")
        ]
        middle, low, high = row["speed_over_peer"]
        expected.append([row["network"], *parts, f"{middle:.2f} [{low:.2f}, {high:.2f}]"])
    assert PAGE.table("| network |") == expected


def test_the_table_of_processes_is_that_of_the_result_file():
    content = result_file("processes_2cpu")
    assert f"median of {content['n']} runs" in PAGE.sentences
    key = "largest_relative_difference_of_a_loss"
    assert PAGE.table("| processes |") == [
        [
            str(row["processes"]),
            "{:,.0f} [{:,.0f}, {:,.0f}]".format(*row["images_per_second"]),
            f"{row[key + '_in_20_steps']:.0e}",
            f"{row[key]:.0e}",
        ]
        for row in content["rows"]
    ]


def test_the_cost_of_monitors_is_that_of_the_result_file():
    look = result_file("monitor_overhead")["results"]["all"]
    low, high = (f"{100 * (value - 1):.1f}" for value in look["quartiles"])
    sentence = (
        f"takes {100 * (look['relative'] - 1):.0f} % longer (quartiles {low} to {high} %), so at "
        f"the default of one look in 100 steps {100 * (look['relative_every_100'] - 1):.2f} %"
    )
    assert sentence in PAGE.sentences


def test_monitors_and_their_limits_are_those_of_the_code():
    rows = PAGE.table("| `monitor.names`")
    assert [row[0].strip("`") for row in rows] == list(MONITORS)
    faults = {row[0].strip("`"): row[-1] for row in rows}
    assert faults["batch_norm"] == f"more than {health.FEW:.0%}".replace("%", " %") + " dead"
    assert f"{100 * health.FEW:.0f} %" in faults["slopes"]
    low, high = health.STARVED, health.HIDES_SHORTCUT
    assert faults["residual_ratio"] == f"below {low} or above {high:g}"
