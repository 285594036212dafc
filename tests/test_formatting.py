"""Text that others chose, on a card: shown as it is, and never as a link, an image or HTML."""

import re

import pytest
from markdown_it import MarkdownIt

from hub_cards.card.formatting import code, link, plain
from tests.support.model_folders import BREAKDOWN, DATASET, make_full, put_results, render, result

HOSTILE = [
    "[click](https://evil.example)",
    "![x](https://evil.example/pixel.png)",
    "<img src=https://evil.example/p.png>",
    "<script>alert(1)</script>",
    "https://evil.example/login",
    "www.evil.example",
    "mailto:me@evil.example",
    "@somebody",
    "`code` and ``more``",
    "**bold** _leaning_ ~~gone~~",
    "# heading",
    "- item",
    "1. first",
    "> quoted",
    "a|b",
    "\\[x](y)",
    "&lt;b&gt;",
    "line\nbreak\r\n\n## Evaluation",
    "\x1b[31mred\x1b[0m",
    "\u202eright to left",
]
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
INLINE = {"inline", "paragraph_open", "paragraph_close"}


def text_of(markdown):
    """The text that a reader sees; and the kinds of everything else that there is."""
    tokens = READER.parse(markdown)
    parts = [part for token in tokens for part in token.children or ()]
    kinds = {token.type for token in tokens} - INLINE
    kinds |= {part.type for part in parts} - {"text", "text_special"}
    return "".join(part.content for part in parts), kinds


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is_and_is_nothing_but_text(name):
    """As another program reads Markdown (markdown-it-py); GitHub also links bare addresses."""
    seen = "".join(sign if sign.isprintable() else " " for sign in name)
    shown, kinds = text_of(plain(name))
    assert not kinds
    assert not re.search(r"(?i)(https?|mailto):|www\.|(?<!\\)@", plain(name))
    assert shown.split() == seen.split()


@pytest.mark.parametrize(
    "name", ["Fashion-MNIST sample", "T-shirt/top", "n01443537", "a_b_c", "C++"]
)
def test_ordinary_names_stay_as_they_are(name):
    assert plain(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_code_is_code_whatever_it_holds(name):
    tokens = READER.parse(f"split {code(name)} here")
    kinds = [part.type for token in tokens for part in token.children or ()]
    assert kinds == ["text", "code_inline", "text"]


def test_links_lead_to_web_addresses_only():
    assert link("x", "javascript:alert(1)") == "x"
    assert link("x", "https://a.example/b) [y](https://evil.example") == (
        "[x](https://a.example/b%29%20%5By%5D%28https://evil.example)"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_on_a_card_makes_links_images_or_html(tmp_path, name):
    """A card with a hostile name has the links and the headings of one with a tame name."""
    shapes = []
    for number, chosen in enumerate(("tame", name)):
        folder = make_full(tmp_path / str(number), labels=[chosen, *"bcdefghi"])
        rows = [{**BREAKDOWN["classes"][0], "name": chosen}, *BREAKDOWN["classes"][1:]]
        pairs = [{**BREAKDOWN["confusions"][0], "predicted": chosen}]
        dataset = DATASET | {"name": chosen, "split": chosen, "config": chosen}
        put_results(folder, result(folder, dataset=dataset, classes=rows, confusions=pairs))
        tokens = READER.parse(render(folder).partition("\n---\n")[2])
        parts = [part for token in tokens for part in (token, *(token.children or ()))]
        shapes.append(
            [
                (part.type, part.attrs.get("href") or part.attrs.get("src"))
                for part in parts
                if part.type in ("link_open", "image", "html_inline", "html_block", "heading_open")
            ]
        )
        assert "\x1b" not in render(folder)
    assert shapes[0] == shapes[1]
