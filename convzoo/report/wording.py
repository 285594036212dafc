"""Numbers and names as the page shows them.

Names of classes and files are other people's text: they may hold anything.
"""

import unicodedata

# Marks that turn the direction of writing, by which a name can look like another one.
TURNING = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
ISOLATE, END = "\u2068", "\u2069"


def visible(text: object) -> str:
    """Make what a reader would not see of a text visible: control characters, turning marks."""
    shown = "".join(_visible(sign) for sign in str(text))
    return shown if shown.strip() else f"\u201c{shown}\u201d"


def _visible(sign: str) -> str:
    hidden = sign in TURNING or unicodedata.category(sign) in ("Cc", "Cs", "Cn", "Zl", "Zp")
    return f"\\u{ord(sign):04x}" if hidden else sign


def isolated(text: object) -> str:
    """The same for attributes, where no element can keep the direction of writing to itself."""
    return f"{ISOLATE}{visible(text)}{END}"


def percent(fraction: float) -> str:
    """A fraction in percent: two decimals, never 0 or 100 where it is not exactly that."""
    text = f"{100 * fraction:.2f}"
    if text == "100.00" and fraction < 1:
        return "> 99.99 %"
    if text == "0.00" and fraction > 0:
        return "< 0.01 %"
    return f"{text} %"


def interval(ends: tuple[float, float] | list[float]) -> str:
    """Both ends of an interval of fractions, in percent."""
    low, high = ends
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "1,200 images", "2 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
