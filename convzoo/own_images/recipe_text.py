"""Write settings as a recipe that a person can read, edit and run again."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from convzoo.own_images.looking import Findings
from convzoo.own_images.presets import Setting, Settings, choose, describe_preset
from convzoo.own_images.starting_point import StartingPoint
from convzoo.recipe.files import parse_override, toml_value
from convzoo.recipe.settings import sections

WIDTH = 32  # columns before the remark at a setting
LINE = 100  # columns of the header
INDENT = "#         "
MOST_CLASSES = 30  # that are listed with their counts
UNEVEN = 3  # the largest class has so many times the images of the smallest


def recipe_path(path: str, start: StartingPoint | None, *, output: str, name: str = "") -> Path:
    """Return where the recipe of a dataset is written: OUTPUT/NAME.toml.

    Args:
        path: of the dataset.
        start: the pretrained model, or None.
        output: folder for recipe and run.
        name: of the run; made of the dataset's if "".
    """
    if not name:
        given = Path(path).expanduser()
        last = given.resolve().name if given.exists() else path
        last = given.stem if given.is_file() else last
        name = re.sub(r"[^\w.-]+", "-", last).strip("-.") or "images"
        name += "-tuned" if start else ""
    return Path(output) / f"{name}.toml"


def recipe_text(
    findings: Findings, start: StartingPoint | None, *, file: Path, overrides: Sequence[str] = ()
) -> str:
    """Write the recipe for a dataset.

    Args:
        findings: what is in the dataset.
        start: the pretrained model, or None for fresh weights.
        file: where the recipe will lie; its run is to lie beside it.
        overrides: assignments section.key=value that replace what the preset says.

    Raises:
        ValueError: if an override is no assignment.
    """
    asked = [parse_override(override) for override in overrides]
    lengths = [value for *name, value in asked if name == ["train", "epochs"]]
    settings: Settings = {
        "run": {
            "name": Setting(file.stem),
            "output_dir": Setting(str(file.parent), "the model will lie in NAME/model below it"),
            "seed": Setting(42, "another one: another share, order and start"),
            **_license(start),
        },
        **choose(findings, start, epochs=lengths[-1] if lengths else None),
    }
    for section, key, value in asked:
        settings.setdefault(section, {})[key] = Setting(value, "as you asked")
    known = list(sections())
    order = sorted(settings, key=lambda name: known.index(name) if name in known else len(known))
    lines = _header(findings, start, file=file)
    for section in order:
        lines += ["", f"[{section}]"]
        lines += [_line(key, setting) for key, setting in settings[section].items()]
    return "\n".join(lines) + "\n"


def _license(start: StartingPoint | None) -> dict[str, Setting]:
    """What is made of weights of others has their terms; two names of the Hub say no terms."""
    if start is None or start.license in ("", "other", "unknown"):
        return {}
    return {"license": Setting(start.license, "that of the pretrained weights")}


def _header(findings: Findings, start: StartingPoint | None, *, file: Path) -> list[str]:
    counts = findings.classes
    listed = [f"{_in_comment(name)} {count:,}" for name, count in counts.items()]
    more = ", ..." if len(listed) > MOST_CLASSES else ""
    low, median, high = findings.sides
    sides = f"{low} pixels" if low == high else f"{low} to {high} pixels, median {median}"
    lines = [
        f"# {len(counts)} classes of images in {_in_comment(findings.path)}",
        f"# Found:  {findings.num_images:,} images; shorter sides {sides}",
        *textwrap.wrap(
            f"{', '.join(listed[:MOST_CLASSES])}{more}",
            width=LINE,
            initial_indent=INDENT,
            subsequent_indent=INDENT,
        ),
    ]
    least, most = min(counts.values()), max(counts.values())
    if most > UNEVEN * least:
        lines += [
            f"{INDENT}uneven: {least:,} to {most:,} images in a class; data.balance = 0.5 shows",
            f"{INDENT}small ones more often",
        ]
    return [
        *lines,
        f"# Preset: {describe_preset(findings, start)}",
        f"# Run:    accelerate launch -q train_accelerate.py {file}",
        "# Edit what you like. Keys that are not here have their defaults, which",
        "# `convzoo recipe` explains; `convzoo recipe FILE` fills them in.",
    ]


def _in_comment(text: str) -> str:
    """Text on one line; TOML allows no control characters in comments."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def _line(key: str, setting: Setting) -> str:
    line = f"{key} = {toml_value(setting.value)}"
    return f"{line:<{WIDTH}}# {setting.about}" if setting.about else line
