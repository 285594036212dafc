"""docs/training.md tells the truth: its keys exist, its limits are those of the code."""

import re

from convzoo import health
from convzoo.recipe.settings import MONITORS, sections
from modeling import FAMILIES
from tests.support.documents import Page

PAGE = Page("docs/training.md")


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_every_key_it_names_is_a_setting():
    named = re.findall(rf"`({'|'.join(sections())})\.(\w+)(?:=\w+)?`", PAGE.text)
    assert len(named) > 20
    for section, key in named:
        fields = set(sections()[section].model_fields)
        if section == "model":
            fields |= {name for family in FAMILIES for name in family.__annotations__}
        assert key in fields, f"{section}.{key}"


def test_monitors_and_their_limits_are_those_of_the_code():
    rows = PAGE.table("| `monitor.names`")
    assert [row[0].strip("`") for row in rows] == list(MONITORS)
    faults = {row[0].strip("`"): row[-1] for row in rows}
    assert faults["batch_norm"] == f"more than {health.FEW:.0%}".replace("%", " %") + " dead"
    assert f"{100 * health.FEW:.0f} %" in faults["slopes"]
    low, high = health.STARVED, health.HIDES_SHORTCUT
    assert faults["residual_ratio"] == f"below {low} or above {high:g}"
