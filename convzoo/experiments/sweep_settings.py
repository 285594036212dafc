"""What a sweep tries: values and ranges of settings, and the recipes of its runs.

`optimizer.learning_rate=0.1,0.01` names values; `log:1e-4..1e-1`, `uniform:0..1` and `int:1..8` are
ranges to draw from. A grid has every combination of values; a random sweep draws each setting of
run N from the seed, N and the name of the setting, so more runs or settings change no run before.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convzoo.recipe.files import load_recipe, parse_override, toml_value
from convzoo.recipe.settings import Recipe

RANGE = re.compile(r"(log|uniform|int):(.+?)\.\.(.+)")
OWN = ("run.name", "run.output_dir", "run.resume")  # what the sweep decides for each run
MOST_RUNS = 10_000
LONGEST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers to draw from, both ends included.

    Attributes:
        kind: log, uniform or int.
        low: the least.
        high: the greatest.
    """

    kind: str
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> str:
        """Draw a number, as TOML; 4 significant digits of it, which are what was drawn."""
        if self.kind == "int":
            return str(rng.integers(int(self.low), int(self.high), endpoint=True))
        if self.kind == "log":
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return repr(min(self.high, max(self.low, float(f"{value:.4g}"))))


Tried = dict[str, Range | tuple[str, ...]]  # section.key -> a range, or values as TOML
Settings = dict[str, str]  # section.key -> value of a run, as TOML


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: of its folder; it follows from the settings, so a longer sweep finds it again.
        settings: what it has instead of the recipe's.
        recipe: with these settings.
    """

    name: str
    settings: Settings
    recipe: Recipe


def parse_tried(words: Sequence[str]) -> Tried:
    """Read `section.key=a,b,c` and ranges.

    Raises:
        ValueError: if words are wrong; all of them are named.
    """
    tried: Tried = {}
    problems = []
    for word in words:
        try:
            section, key, _ = parse_override(word)
            name = f"{section}.{key}"
            if name in tried:
                raise ValueError(f"{name} must be given once; got it again: {word}")
            if name in OWN:
                raise ValueError(f"{name} is set by the sweep, for each run; leave it away")
            tried[name] = _parse_values(name, word.partition("=")[2].strip())
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return tried


def split_values(text: str) -> list[str]:
    """Split at commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and not depth:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def grid(tried: Tried) -> list[Settings]:
    """Return every combination; the last setting changes fastest.

    Raises:
        ValueError: if there is a range, or there are too many.
    """
    ranges = [key for key, values in tried.items() if isinstance(values, Range)]
    if ranges:
        raise ValueError(f"ranges need --random N, the number of runs; got one of {ranges[0]}")
    lists = [values for values in tried.values() if not isinstance(values, Range)]
    count = math.prod(map(len, lists))
    if count > MOST_RUNS:
        raise ValueError(f"a sweep must have at most {MOST_RUNS} runs; this grid has {count}")
    return [dict(zip(tried, values, strict=True)) for values in itertools.product(*lists)]


def draw(tried: Tried, count: int, seed: int) -> list[Settings]:
    """Draw so many different combinations; fewer, where there are not as many.

    Args:
        tried: values, each as likely as the others, and ranges.
        count: runs.
        seed: of the draws.
    """
    drawn: list[Settings] = []
    for number in range(20 * count + 100):
        settings = {key: _draw_one(key, values, [seed, number]) for key, values in tried.items()}
        if settings not in drawn:
            drawn.append(settings)
        if len(drawn) == count:
            break
    return drawn


def plan_runs(recipe: str, combinations: Sequence[Settings], *, folder: Path) -> list[PlannedRun]:
    """Make the recipe of each run.

    Args:
        recipe: path of the recipe.
        combinations: settings of each run.
        folder: of the sweep; the runs lie in it.

    Raises:
        FileNotFoundError: if there is no recipe.
        ValueError: if settings are wrong or contradict each other; all such are named.
    """
    varied = [key for key in combinations[0] if len({each[key] for each in combinations}) > 1]
    own = [f"run.output_dir={toml_value(str(folder))}", 'run.resume="auto"']
    planned, problems = [], dict[str, None]()
    for settings in combinations:
        name = run_name({key: settings[key] for key in varied})
        overrides = [f"{key}={value}" for key, value in settings.items()]
        try:
            made = load_recipe(recipe, [*overrides, *own, f"run.name={toml_value(name)}"])
        except ValueError as error:
            problems |= dict.fromkeys(_problems_alone(recipe, overrides) or [f"{error} ({name})"])
        else:
            planned.append(PlannedRun(name=name, settings=settings, recipe=made))
    if problems:
        raise ValueError("; ".join(problems))
    pushed = planned[0].recipe.run.push_to
    if pushed and len(planned) > 1:
        raise ValueError(
            f"the runs of a sweep must not all be pushed to one repository; run.push_to is "
            f"{pushed!r}. Add run.push_to="
        )
    return planned


def run_name(settings: Mapping[str, str]) -> str:
    """Name a run by its settings, in letters, digits, '.', '-' and '_'."""
    short = [key.partition(".")[2] for key in settings]
    parts = []
    for key, value in settings.items():
        name = key.partition(".")[2]
        shown = key.replace(".", "_") if short.count(name) > 1 else name
        parts.append("-".join((shown, _plain(value.strip('"')))))
    name = "__".join(parts) or "run"
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{_digest(name)}"


def _plain(value: str) -> str:
    value = re.sub(r"(\d)e\+", r"\1e", value)  # 1e+30 is 1e30
    plain = re.sub(r"[^A-Za-z0-9._-]+", ".", value).strip(".")
    return plain if plain == value else f"{plain}-{_digest(value)[:4]}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _parse_values(name: str, text: str) -> Range | tuple[str, ...]:
    if match := RANGE.fullmatch(text):
        return _parse_range(name, match[1], ends=(match[2], match[3]))
    section, _, key = name.partition(".")
    values = [toml_value(parse_override(f"{section}.{key}={v}")[2]) for v in split_values(text)]
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise ValueError(f"values of {name} must differ; got {', '.join(sorted(twice))} twice")
    return tuple(values)


def _parse_range(name: str, kind: str, *, ends: tuple[str, str]) -> Range:
    try:
        low, high = map(float, ends)
        fits = low < high and math.isfinite(high - low)
        if kind == "log":
            fits = fits and low > 0
        if kind == "int":
            fits = fits and low == int(low) and high == int(high)
    except ValueError:
        fits = False
    if not fits:
        rule = {"log": ", above 0", "int": ", both whole", "uniform": ""}[kind]
        raise ValueError(
            f"{kind}:LOW..HIGH of {name} must have two numbers, LOW below HIGH{rule}; got "
            f"{ends[0]}..{ends[1]}"
        )
    return Range(kind=kind, low=low, high=high)


def _draw_one(key: str, values: Range | tuple[str, ...], entropy: list[int]) -> str:
    of_key = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    rng = np.random.default_rng(np.random.SeedSequence([*entropy, of_key]))
    return values.draw(rng) if isinstance(values, Range) else values[rng.integers(len(values))]


def _problems_alone(recipe: str, overrides: Sequence[str]) -> list[str]:
    """Say what is wrong with single settings of a combination that is refused."""
    problems = []
    for override in overrides:
        try:
            load_recipe(recipe, [override])
        except ValueError as error:
            problems.append(str(error))
    return problems
