"""The page in a real browser, at desktop and phone width, light and dark.

The screenshots of the documentation are made by this test, with the model of `make quickstart`:

    CONVZOO_MODEL=runs/quickstart/model CONVZOO_SCREENSHOTS=docs python -m pytest -m browser
"""

import os
import shutil
from pathlib import Path

import pytest
from test_app import CARD, LABELS, picture, random_qlnet, save_model, serve

from modeling import ConvZooImageProcessor

pytestmark = pytest.mark.browser
# Debian's Chromium calls home at every start unless told not to.
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
FLAGS += " --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"  # a camera
UPLOAD = "#picture input[type=file]"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    if given := os.environ.get("CONVZOO_MODEL"):
        return Path(given).resolve()
    folder = save_model(tmp_path_factory.mktemp("model"), LABELS)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory, model):
    with serve(tmp_path_factory.mktemp("space"), model) as url:
        yield url


@pytest.fixture(scope="module")
def address_of_two(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("qlnet")
    random_qlnet(LABELS).save_pretrained(folder)
    ConvZooImageProcessor(size=40, crop_size=32).save_pretrained(folder)
    with serve(tmp_path_factory.mktemp("space_of_two"), model, folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )


@pytest.fixture(params=[("light", 1100, 1), ("phone_dark", 390, 2)], ids=lambda param: param[0])
def page(request, browser):
    name, width, scale = request.param
    several = "two_models" in request.node.name
    address = request.getfixturevalue("address_of_two" if several else "address")
    page = browser.new_page(
        viewport={"width": width, "height": 720}, device_scale_factor=scale, reduced_motion="reduce"
    )
    page.name = name
    page.set_default_timeout(15_000)
    elsewhere, faults = [], []
    page.on(
        "request",
        lambda r: r.url.startswith((address, "data:", "blob:")) or elsewhere.append(r.url),
    )
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.goto(f"{address}/?__theme={name.split('_')[-1]}")
    page.wait_for_selector(UPLOAD, state="attached")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert not elsewhere and not faults


def wait_for_details(page, text):
    page.locator(".details", has_text=text).first.wait_for()


def assert_accessible(page):
    """No violation that axe-core finds, but one: the footer of gradio names an icon twice."""
    from axe_playwright_python.sync_playwright import Axe  # of the extra [browser]

    violations = Axe().run(page).response["violations"]
    found = {v["id"]: [n["html"] for n in v["nodes"]] for v in violations}
    assert found.keys() <= {"image-redundant-alt"}, found


def test_upload_example_camera_and_card(page, model, tmp_path):
    example = sorted((model / "examples").iterdir())[0]
    page.set_input_files(UPLOAD, example)
    wait_for_details(page, "for this")
    rows = page.locator(".top5 .confidence-set")
    assert rows.count() == 5
    assert rows.first.inner_text().split("\n")[0] == page.inner_text(".top5 h2")
    page.locator(".cam img").wait_for()
    page.locator(".explanation", has_text=page.inner_text(".top5 h2")).first.wait_for()
    page.wait_for_timeout(500)  # fonts, and the spinner to fade
    folder = Path(os.environ.get("CONVZOO_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"app_{page.name}.png", full_page=True)
    assert_accessible(page)

    page.click("[aria-label='Remove Image']")
    wait_for_details(page, "choose an example")
    page.click("#examples button >> nth=1")
    wait_for_details(page, "for this")

    page.click("[aria-label='Remove Image']")
    wait_for_details(page, "choose an example")
    page.click("[aria-label='Capture from camera']")
    page.click("text=Click to Access Webcam")
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    page.click("[aria-label='capture photo']")
    wait_for_details(page, "for this")

    row = page.locator(".confidence-set", has=page.locator("meter[aria-valuenow='0']"))
    for number in range(row.count()):
        style = "dd => getComputedStyle(dd, '::after').content"
        assert row.nth(number).locator("dd").evaluate(style) == '"< 1 %"'

    page.click("text=Model card")
    page.locator(".prose table, .prose p").last.wait_for()


def test_a_file_that_is_no_picture_is_explained_and_leaves_the_page_ready(page, model, tmp_path):
    (tmp_path / "text.jpg").write_text("This is no picture.")
    page.set_input_files(UPLOAD, tmp_path / "text.jpg")
    page.locator(".toast-body", has_text="damaged, or no picture").wait_for()
    page.locator("#picture img").wait_for(state="detached")
    page.set_input_files(UPLOAD, sorted((model / "examples").iterdir())[0])
    wait_for_details(page, "for this")


def test_a_class_chosen_by_keyboard_is_explained(page, model):
    page.set_input_files(UPLOAD, sorted((model / "examples").iterdir())[0])
    second = page.locator(".top5 .confidence-set").nth(1)
    name = second.locator("dt").inner_text()
    before = page.locator(".cam img").get_attribute("src")
    second.focus()
    page.keyboard.press("Enter")
    page.locator(".explanation", has_text=f"\u201c{name}\u201d").first.wait_for()
    page.wait_for_function("s => document.querySelector('.cam img').src !== s", arg=before)
    assert page.locator(".cam img").get_attribute("alt").startswith("Heat map")


def test_two_models_side_by_side_their_slopes_and_the_rotation_of_weights(page, tmp_path):
    picture(0).save(tmp_path / "a.png")
    page.set_input_files(UPLOAD, tmp_path / "a.png")
    page.locator(".cam").nth(1).scroll_into_view_if_needed()  # images far below load when seen
    page.locator(".cam img").nth(1).wait_for()
    tops = page.locator(".top5").filter(visible=True)
    first, second = (tops.nth(number).bounding_box() for number in range(2))
    assert (first["y"] < second["y"]) if page.name == "phone_dark" else first["x"] < second["x"]
    page.click("button:has-text('Learnt PReLU slopes')")
    page.locator(".slopes svg").wait_for()
    page.click("button:has-text('Rotate the weights')")
    changes = page.locator(".changes", has_text="turned by 90 degrees").first
    changes.wait_for()
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".changes", has_text="turned by 91 degrees").first.wait_for()
    assert tops.nth(2).inner_text().split("\n")[1:] == tops.nth(1).inner_text().split("\n")[1:]
    page.wait_for_timeout(500)  # the spinner fades
    page.screenshot(path=tmp_path / "two.png", full_page=True)
    assert_accessible(page)
