"""Say in words what a comparison shows: no more than the data allow."""

from collections.abc import Sequence
from typing import Any

from convzoo.comparison.paired_statistics import LEVEL
from convzoo.report.wording import count, percent, visible
from convzoo.text_table import text_table

MOST_CLASSES = 5  # in the text
FIXED = "It says nothing about other trainings of the same recipes"


def points(difference: float, *, signed: bool = True) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * difference:{'+' if signed else ''}.2f}"


def p_text(p_value: float) -> str:
    """A p-value as it is written."""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.4f}"


def _p_cell(p_value: float) -> str:
    return p_text(p_value).removeprefix("p ").removeprefix("= ")


def _interval(ends: Sequence[float]) -> str:
    return f"95 % interval {points(ends[0])} to {points(ends[1])}"


def verdict(report: dict[str, Any]) -> str:
    """Say which model is better on these images, or that they do not tell."""
    models = report["models"]
    if len(models) == 2:
        return two_models_verdict(report["pairs"][0], num_images=report["dataset"]["num_images"])
    best = max(models, key=lambda model: model["num_correct"])["name"]
    against = [pair for pair in report["pairs"] if best in (pair["first"], pair["second"])]
    apart: list[str] = []
    alike: list[str] = []
    for pair in against:
        other = pair["second"] if pair["first"] == best else pair["first"]
        (apart if pair["adjusted_p_value"] < LEVEL else alike).append(visible(other))
    told = f"tell it apart from {', '.join(apart)}" if apart else "tell it apart from no other"
    if apart and alike:
        told += f", but not from {', '.join(alike)}"
    return (
        f"{visible(best)} has the highest accuracy of {count(len(models), 'model')}; these "
        f"{count(report['dataset']['num_images'], 'image')} {told} (McNemar, Holm's correction for "
        f"{count(len(report['pairs']), 'test')}). {FIXED}."
    )


def two_models_verdict(pair: dict[str, Any], *, num_images: int) -> str:
    """Say whether one of two models is better on these images."""
    first, second = visible(pair["first"]), visible(pair["second"])
    images = count(num_images, "image")
    difference, ends = pair["difference"], pair["interval_95"]
    if difference < 0:
        first, second, ends = second, first, [-ends[1], -ends[0]]
    size = f"{points(abs(difference), signed=False)} points"
    numbers = f"{size}, {_interval(ends)}, {p_text(pair['p_value'])}"
    if pair["p_value"] < LEVEL:
        return (
            f"{first} is better than {second} on images like these {images} ({numbers}). {FIXED}."
        )
    if not difference:
        alike = "; both are right on the same ones" if not pair["only_first_right"] else ""
        return (
            f"These {images} do not tell {first} and {second} apart: both are right on as "
            f"many{alike} ({_interval(ends)}). That does not show that they are equal."
        )
    needed = pair["images_needed"]
    return (
        f"These {images} do not tell {first} and {second} apart ({numbers}). If the difference is "
        f"what it seems, about {needed:,} images would show it in 80 % of the cases."
    )


def seeds_verdict(found: dict[str, Any], *, num_images: int) -> str:
    """Say what several trainings of each recipe show."""
    if len(found["recipes"]) == 1:
        (only,) = found["recipes"]
        low, high = only["interval_95"]
        return (
            f"{only['n']} trainings of one recipe reach {percent(only['top1_accuracy_mean'])} on "
            f"average, 95 % interval over seeds and {count(num_images, 'image')} "
            f"{percent(low)} to {percent(high)}."
        )
    counts = {each["name"]: each["n"] for each in found["recipes"]}
    sentences = []
    for pair in found["pairs"]:
        first, second = visible(pair["first"]), visible(pair["second"])
        difference, ends = pair["difference"], pair["interval_95"]
        seeds = f"{counts[pair['first']]} and {counts[pair['second']]} trainings"
        if difference < 0:
            first, second, ends = second, first, [-ends[1], -ends[0]]
        numbers = (
            f"{points(abs(difference), signed=False)} points, {_interval(ends)} over seeds and "
            f"images, {p_text(pair['adjusted_p_value'])}"
        )
        sentences.append(
            f"{first} is better than {second} under this recipe, by {seeds} ({numbers})."
            if pair["adjusted_p_value"] < LEVEL
            else f"{seeds} on {count(num_images, 'image')} do not tell {first} and {second} apart "
            f"({numbers})."
        )
    return " ".join(sentences)


def comparison_text(report: dict[str, Any]) -> str:
    """Write a comparison for a terminal."""
    dataset, models, pairs = report["dataset"], report["models"], report["pairs"]
    parts = [
        f"{count(dataset['num_images'], 'image')} of {visible(dataset['name'])} "
        f"[{visible(dataset['split'])}]",
        _models_table(models),
        _pairs_table(pairs, corrected=len(pairs) > 1),
    ]
    if len(models) > 2:
        parts.append(_agreement_table(report))
    parts += [_classes_table(report), _seeds_table(report.get("seeds"))]
    parts += ["\n".join(f"note: {each}" for each in report["notes"]), report["verdict"]]
    return "\n\n".join(part for part in parts if part)


def _models_table(models: Sequence[dict[str, Any]]) -> str:
    def fraction(value: float | None) -> str:
        return "-" if value is None else percent(value)

    def whole(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}"

    rows = [
        (
            visible(model["name"]),
            fraction(model["top1_accuracy"]),
            " - ".join(f"{100 * end:.2f}" for end in model["interval_95"]),
            fraction(model["top5_accuracy"]),
            "-" if model["loss"] is None else f"{model['loss']:.4f}",
            fraction(model["expected_calibration_error"]),
            whole(model["only_this_right"]),
            whole(model["num_parameters"]),
            whole(model["num_multiply_adds"]),
            whole(model["images_per_second"]),
        )
        for model in models
    ]
    head = ("model", "top-1", "95 % interval", "top-5", "loss", "ECE", "only it right")
    return text_table([(*head, "parameters", "multiply-adds", "images/s"), *rows])


def _pairs_table(pairs: Sequence[dict[str, Any]], *, corrected: bool) -> str:
    rows = [
        (
            f"{visible(pair['first'])} - {visible(pair['second'])}",
            f"{pair['only_first_right']:,} : {pair['only_second_right']:,}",
            points(pair["difference"]),
            " to ".join(points(end) for end in pair["interval_95"]),
            " to ".join(points(end) for end in pair["bootstrap_interval_95"]),
            _p_cell(pair["p_value"]),
            *((_p_cell(pair["adjusted_p_value"]),) if corrected else ()),
            f"{pair['images_needed']:,}" if pair["images_needed"] else "-",
        )
        for pair in pairs
    ]
    head = ("pair", "one alone right", "points", "95 % interval", "bootstrap", "McNemar p")
    return text_table([(*head, *(("Holm p",) if corrected else ()), "images to show it"), *rows])


def _agreement_table(report: dict[str, Any]) -> str:
    names = [visible(model["name"]) for model in report["models"]]
    rows = [
        (name, *(percent(share) for share in shares))
        for name, shares in zip(names, report["agreement"], strict=True)
    ]
    return text_table([("same answer", *names), *rows])


def _classes_table(report: dict[str, Any]) -> str:
    """The classes in which models differ most."""
    names = [visible(model["name"]) for model in report["models"]]
    differing = sorted(
        (each for each in report["classes"] if len(set(each["num_correct"])) > 1),
        key=lambda each: min(each["num_correct"]) - max(each["num_correct"]),
    )
    if not differing:
        return ""
    rows = [
        (visible(each["name"]), f"{each['num_images']:,}", *map(str, each["num_correct"]))
        for each in differing[:MOST_CLASSES]
    ]
    head = ("classes that differ most", "images", *(f"{n} right" for n in names))
    return (
        f"{text_table([head, *rows])}\nCounts, not tests: among many classes some differ by chance."
    )


def _seeds_table(seeds: dict[str, Any] | None) -> str:
    if not seeds:
        return ""
    rows = [
        (
            visible(each["name"]),
            str(each["n"]),
            percent(each["top1_accuracy_mean"]),
            points(each["top1_accuracy_standard_deviation"], signed=False),
            " - ".join(f"{100 * end:.2f}" for end in each["interval_95"]),
        )
        for each in seeds["recipes"]
    ]
    head = ("recipe", "seeds", "top-1", "deviation", "95 % interval over seeds and images")
    return text_table([head, *rows])
