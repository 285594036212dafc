"""The page of a report in a real browser: light, dark, on a phone, by keyboard, without a network.

Screenshots of a report of your own, into a folder:

    CONVZOO_REPORT=runs/quickstart/model/report.html CONVZOO_SCREENSHOTS=shots \
        python -m pytest -m browser tests/test_report_browser.py
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from convzoo.report.illustrations import Heat, Illustration
from convzoo.report.page import Report, choose_images, render_page
from convzoo.report.rereading import data_uri
from tests.support.reports import HOSTILE, random_table, result_of

pytestmark = pytest.mark.browser
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


def page_of(classes, names):
    """A page with a thumbnail of every image, and heat maps."""
    from PIL import Image

    table, *_ = random_table(400, classes, names=names, unreadable=[7])
    rng = np.random.default_rng(0)
    uri = data_uri(Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)))
    lists = choose_images(table, 6)
    heats = tuple(Heat(number=n, uri=uri, place=(0.5, 0.25)) for n in (0, 1))
    return render_page(
        Report(
            title=HOSTILE[1],
            result=result_of(table),
            table=table,
            lists=lists,
            illustrations={place: Illustration(uri, heats) for place in lists.shown.tolist()},
            warnings=[f"a warning with {HOSTILE[0]}"],
        )
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages of few classes with hostile names, of 100 and of 1,000 classes."""
    folder = tmp_path_factory.mktemp("my reports")
    for classes, names in ((4, HOSTILE), (100, None), (1000, None)):
        (folder / f"{classes}.html").write_text(page_of(classes, names), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )


@pytest.fixture(
    params=[("light", 1200), ("dark", 1200), ("dark", 390)], ids=["light", "dark", "phone"]
)
def page(request, browser):
    scheme, width = request.param
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.name, page.width = request.node.callspec.id, width
    page.set_default_timeout(15_000)
    faults = []
    page.on("dialog", lambda dialog: faults.append(dialog.message) or dialog.dismiss())
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert not faults


def violations(page):
    """What axe-core finds."""
    from axe_playwright_python.sync_playwright import Axe  # of the extra [browser]

    found = Axe().run(page).response["violations"]
    return {each["id"]: [node["html"] for node in each["nodes"]] for each in found}


@pytest.mark.parametrize("classes", [4, 100, 1000])
def test_it_is_accessible_and_nothing_sticks_out(page, files, classes, tmp_path):
    page.goto((files / f"{classes}.html").as_uri())
    assert not violations(page)
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert page.evaluate(loaded)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (page.name.startswith("light"))
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_names_of_others_are_text_and_run_nothing(page, files):
    page.goto((files / "4.html").as_uri())
    assert page.inner_text("h1") == HOSTILE[1]
    cells = page.locator(".matrix tbody th").all_inner_texts()
    assert cells[:2] == list(HOSTILE[:2]) and cells[3] == HOSTILE[3]


def test_tables_are_sorted_by_keyboard(page, files):
    page.goto((files / "1000.html").as_uri())
    table = page.locator("table.sortable", has=page.locator("th", has_text="Most often"))

    def column(number):
        return table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()

    before = column(1)
    heading = table.locator("th", has_text="Accuracy")
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    shares = [float(text.split()[0]) for text in column(4)]
    assert shares == sorted(shares, reverse=True)
    table.locator("button", has_text="Class").press("Space")
    names = [int(name.split()[1]) for name in column(1)]
    assert names == sorted(names)  # class 2 before class 10
    assert heading.get_attribute("aria-sort") is None
    assert sorted(before) == sorted(column(1))


def test_one_can_jump_past_the_links(page, files):
    page.goto((files / "4.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(":focus").bounding_box()["x"] >= 0


def test_a_report_of_ones_own_is_photographed(page):
    given = os.environ.get("CONVZOO_REPORT")
    if given:
        page.goto(Path(given).resolve().as_uri())
        folder = Path(os.environ["CONVZOO_SCREENSHOTS"])
        page.screenshot(path=folder / f"report_{page.name}.png", full_page=True)
        assert not violations(page)
