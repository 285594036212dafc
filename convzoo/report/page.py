"""Make the page of a report: one HTML file that needs nothing else.

All names on it are escaped by Jinja, and a content security policy in the file lets a browser load
nothing and run nothing but the script of the page itself.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.results import EvalResult, is_validation_share
from convzoo.evaluation.statistics import accuracy_by_class, most_confused, wilson_interval
from convzoo.report.illustrations import Illustration
from convzoo.report.mistakes import ambiguous, confident_errors, confusion_matrix, doubtful_labels
from convzoo.report.wording import count, interval, isolated, percent, visible

MOST_IN_MATRIX = 100  # classes; of more, a matrix says nothing to the eye
MOST_PAIRS = 50
MOST_UNREADABLE = 500
SHADES = 10  # of the matrix, see page.css
Record = dict[str, Any]
TRAINING = {
    True: "These images are of the split that the model was trained on: it has seen them with "
    "their labels, so its probabilities are no evidence, neither for nor against a label.",
    False: "By its records the model was not trained on these images, as this rule requires.",
    None: "What the model was trained on is not recorded here. If it was these images, its "
    "probabilities are no evidence, neither for nor against a label.",
}


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Places of the images that the page shows, list by list, and how many there are in all.

    Attributes:
        errors, ambiguous, doubts: places in the table.
        suggested: class that the model is sure of instead, of each of the doubts.
        num_errors: wrong answers.
        num_ambiguous: images whose second answer is nearly as probable as the first.
        num_doubts: labels in doubt.
    """

    errors: np.ndarray
    ambiguous: np.ndarray
    doubts: np.ndarray
    suggested: np.ndarray
    num_errors: int
    num_ambiguous: int
    num_doubts: int

    @property
    def shown(self) -> np.ndarray:
        """Places of all of them, each once."""
        return np.unique(np.concatenate([self.errors, self.ambiguous, self.doubts]))


def choose_images(table: PredictionTable, limit: int) -> Lists:
    """Choose the first images of each list, `limit` at most."""
    errors, close, doubts = confident_errors(table), ambiguous(table), doubtful_labels(table)
    return Lists(
        errors=errors[:limit],
        ambiguous=close[:limit],
        doubts=doubts.places[:limit],
        suggested=doubts.suggested[:limit],
        num_errors=len(errors),
        num_ambiguous=len(close),
        num_doubts=len(doubts.places),
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page is made of.

    Attributes:
        title: name of the model.
        result: the entry of `eval_results.json`.
        table: its predictions.
        lists: which images are shown.
        illustrations: by place; of images that could be read again.
        trained_on: whether these images were trained on; None where that is not known.
        warnings: sentences that a reader must not miss.
    """

    title: str
    result: EvalResult
    table: PredictionTable
    lists: Lists
    illustrations: Mapping[int, Illustration] = field(default_factory=dict)
    trained_on: bool | None = None
    warnings: Sequence[str] = ()


def render_page(report: Report) -> str:
    """Return the page as HTML.

    Raises:
        ModuleNotFoundError: without Jinja2, of the extras [train] and [cards].
    """
    import jinja2
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "percent": percent, "interval": interval}
    ours: dict[str, Markup] = {
        key: Markup((here / name).read_text(encoding="utf-8"))
        for key, name in (("style", "page.css"), ("script", "page.js"))
    }
    policy = "; ".join(
        [
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'",
            *(f"{key}-src {_hash_source(text)}" for key, text in ours.items()),
        ]
    )
    template = environment.get_template("page.html.jinja")
    return template.render(_context(report) | ours, policy=policy).lstrip()


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _context(report: Report) -> Record:
    table, result, lists = report.table, report.result, report.lists
    dataset, readable = result["dataset"], table.readable
    names = table.facts.names
    labels, answers = table.label[readable], table.top_classes[readable, 0]
    wrong = labels != answers
    num_pairs = len(np.unique(labels[wrong].astype(np.int64) * len(names) + answers[wrong]))
    unreadable = np.flatnonzero(~readable)
    return {
        "title": report.title,
        "data": dataset["name"],
        "split": dataset["split"],
        "sentence": _images(result),
        "views": result["protocol"]["views"],
        "date": _moment(result),
        "sections": _sections(bool(len(unreadable))),
        "warnings": report.warnings,
        "numbers": _numbers(report),
        "matrix": _matrix(table),
        "pairs": most_confused(labels, answers, names=names, limit=MOST_PAIRS),
        "num_pairs": num_pairs,
        "classes": _classes(table),
        "without_images": _without_images(table),
        "explained": any(each.heats for each in report.illustrations.values()),
        "errors": {"entries": _error_entries(report), "all": lists.num_errors},
        "ambiguous": {"entries": _ambiguous_entries(report), "all": lists.num_ambiguous},
        "doubts": {"entries": _doubt_entries(report), "all": lists.num_doubts},
        "training": TRAINING[report.trained_on],
        "bins": _bins(result),
        "most": f"{max((one['num_samples'] for one in _recorded_bins(result)), default=0):,}",
        "unreadable": {
            "entries": [
                (table.image[place], names[table.label[place]], table.error[place])
                for place in unreadable[:MOST_UNREADABLE].tolist()
            ],
            "all": len(unreadable),
        },
        "facts": _facts(report),
        "shown": count(len(report.illustrations), "image"),
    }


def _moment(result: EvalResult) -> str:
    moment = result.get("date") or "at an unknown time"
    return moment.replace("T", " ").replace("+00:00", " UTC")


def _sections(any_unreadable: bool) -> list[tuple[str, str]]:
    return [
        ("numbers", "Numbers"),
        ("confusions", "What is taken for what"),
        ("classes", "Classes"),
        ("errors", "Most confident errors"),
        ("ambiguous", "Ambiguous images"),
        ("labels", "Labels in doubt"),
        ("calibration", "Calibration"),
        *([("unreadable", "Unreadable images")] if any_unreadable else []),
        ("facts", "What was measured"),
    ]


def _images(result: EvalResult) -> str:
    dataset = result["dataset"]
    number, subset = dataset["num_samples"], dataset.get("subset")
    if not subset:
        return f"all {count(number, 'image')}" if number > 1 else count(number, "image")
    part = f"{number:,} of {count(subset['of'], 'image')}"
    return f"the validation share, {part}," if is_validation_share(dataset) else part


def _numbers(report: Report) -> list[Record]:
    """Headline numbers, as the result has them."""
    result, table = report.result, report.table
    metrics, intervals = result["metrics"], result.get("intervals_95") or {}
    images = f"{result['dataset']['num_samples']:,}"
    rows: list[Record] = []
    for key, title in (("top1_accuracy", "Top-1 accuracy"), ("top5_accuracy", "Top-5 accuracy")):
        value: float | None = metrics.get(key)  # type: ignore[assignment]
        if value is not None:
            ends = interval(intervals[key]) if key in intervals else ""
            rows.append(
                {"title": title, "value": percent(value), "interval": ends, "images": images}
            )
    readable = f"{int(table.readable.sum()):,}"
    losses = table.loss[table.readable].astype(np.float64)
    if len(losses):
        mean, ends = float(losses.mean()), ""
        if len(losses) > 1:
            reach = 1.96 * float(losses.std(ddof=1)) / len(losses) ** 0.5
            ends = f"{max(0.0, mean - reach):.4f} to {mean + reach:.4f}"
        loss = {"title": "Loss (cross entropy)", "value": f"{mean:.4f}"}
        rows.append(loss | {"interval": ends, "images": readable})
    if calibration := result.get("calibration"):
        error = percent(calibration["expected_calibration_error"])
        rows.append(
            {
                "title": "Expected calibration error",
                "value": error,
                "interval": "",
                "images": readable,
            }
        )
    return rows


def _matrix(table: PredictionTable) -> Record | None:
    """The classes that occur, and for each true one its images by answer; None if too many."""
    names = table.facts.names
    if len(names) > MOST_IN_MATRIX:
        return None
    counts = confusion_matrix(table)
    true = np.flatnonzero(counts.sum(1))
    occurring = np.flatnonzero(counts.sum(1) + counts.sum(0))
    left_out = len(names) - len(occurring)
    return {
        "columns": [names[number] for number in occurring],
        "rows": [
            (names[row], [_cell(counts[row], row, column=column) for column in occurring.tolist()])
            for row in true.tolist()
        ],
        "left_out": left_out
        and f"Left out: {count(left_out, 'class')} without images and without answers.",
    }


def _cell(counts: np.ndarray, row: int, *, column: int) -> Record:
    number = int(counts[column])
    if not number:
        return {"text": "", "shade": ""}
    step = max(1, round(SHADES * (number / int(counts.sum())) ** 0.5))  # rare errors are seen, too
    return {"text": f"{number:,}", "shade": f"{'hit' if row == column else 'miss'}{step}"}


def _classes(table: PredictionTable) -> list[Record]:
    """Accuracy of each class that has images, the weakest first; unreadable ones are wrong."""
    names, readable = table.facts.names, table.readable
    answers = np.where(readable, table.top_classes[:, 0], -1)
    wrong = readable & ~table.hits()
    # The most frequent wrong answer of each class: pairs in falling order, the first one counts.
    pairs = table.label[wrong].astype(np.int64) * len(names) + table.top_classes[wrong, 0]
    pairs, counts = np.unique(pairs, return_counts=True)
    taken_for: dict[int, tuple[str, int]] = {}
    for place in np.argsort(-counts, kind="stable").tolist():
        true, answer = divmod(int(pairs[place]), len(names))
        taken_for.setdefault(true, (names[answer], int(counts[place])))
    rows = accuracy_by_class(table.label, answers, names=names)
    rows.sort(key=lambda row: (row["top1_accuracy"], -row["num_samples"]))
    return [
        {
            **row,
            "interval": wilson_interval(row["num_correct"], row["num_samples"]),
            "taken_for": taken_for.get(row["class"]),
        }
        for row in rows
    ]


def _without_images(table: PredictionTable) -> str:
    number = len(table.facts.names) - len(np.unique(table.label))
    return f"{count(number, 'class')} of the model have no images here." if number else ""


def _entry(
    report: Report, place: int, answers: list[tuple[str, int, float]], *, heats: bool = False
) -> Record:
    """One image of a list, with classes and their probabilities."""
    table, names = report.table, report.table.facts.names
    illustration = report.illustrations.get(place)
    file, label = table.image[place], names[table.label[place]]
    return {
        "file": file,
        "uri": illustration and illustration.uri,
        "alt": f"{isolated(file)}, labelled {isolated(label)}",
        "heats": [
            {
                "uri": heat.uri,
                "caption": caption,
                "alt": f"Heat map of {isolated(names[heat.number])}: {_where(heat.place)}",
            }
            for heat, caption in zip(
                illustration.heats if illustration and heats else (),
                ("for the label", "for the answer"),
                strict=False,
            )
        ],
        "answers": [(term, names[number], percent(chance)) for term, number, chance in answers],
    }


def _where(place: tuple[float, float] | None) -> str:
    if place is None:
        return "no part of the image speaks for it"
    return f"brightest {place[0]:.0%} from the left and {place[1]:.0%} from the top"


def _error_entries(report: Report) -> list[Record]:
    table = report.table
    return [
        _entry(
            report,
            place,
            [
                ("label", int(table.label[place]), _of_label(table, place)),
                ("answer", *_answer(table, place, 0)),
            ],
            heats=True,
        )
        for place in report.lists.errors.tolist()
    ]


def _ambiguous_entries(report: Report) -> list[Record]:
    table = report.table
    return [
        _entry(
            report,
            place,
            [
                ("first", *_answer(table, place, 0)),
                ("second", *_answer(table, place, 1)),
                ("label", int(table.label[place]), _of_label(table, place)),
            ],
        )
        for place in report.lists.ambiguous.tolist()
    ]


def _doubt_entries(report: Report) -> list[Record]:
    table, lists = report.table, report.lists
    entries = []
    for place, suggested in zip(lists.doubts.tolist(), lists.suggested.tolist(), strict=True):
        (kept,) = np.flatnonzero(table.top_classes[place] == suggested)
        entries.append(
            _entry(
                report,
                place,
                [
                    ("label", int(table.label[place]), _of_label(table, place)),
                    ("rather", suggested, float(table.top_probabilities[place, kept])),
                ],
            )
        )
    return entries


def _answer(table: PredictionTable, place: int, rank: int) -> tuple[int, float]:
    return int(table.top_classes[place, rank]), float(table.top_probabilities[place, rank])


def _of_label(table: PredictionTable, place: int) -> float:
    return float(np.exp(-table.loss[place]))


def _recorded_bins(result: EvalResult) -> Sequence[Any]:
    calibration = result.get("calibration")
    return calibration["bins"] if calibration else ()


def _bins(result: EvalResult) -> list[Record]:
    """Bins of the calibration, with where their bars are in the drawing of the template."""
    bins = _recorded_bins(result)
    most = max((one["num_samples"] for one in bins), default=0)
    rows = []
    for one in bins:
        images, hits = one["num_samples"], one["num_correct"]
        low, high = wilson_interval(hits, images)
        left, width = 62 + 340 * one["low"], 340 * (one["high"] - one["low"])
        rows.append(
            {
                "range": f"{100 * one['low']:.1f} to {100 * one['high']:.1f} %",
                "mean": one.get("mean_confidence"),
                "accuracy": hits / images,
                "interval": (low, high),
                "images": images,
                "x": round(left + 0.5, 2),
                "width": round(width - 1, 2),
                "middle": round(left + width / 2, 2),
                "top": round(210 - 200 * hits / images, 2),
                "low_y": round(210 - 200 * low, 2),
                "high_y": round(210 - 200 * high, 2),
                "count_height": round(max(0.5, 54 * images / most), 2),
            }
        )
    return rows


def _facts(report: Report) -> list[tuple[str, str]]:
    result = report.result
    dataset, model = result["dataset"], result["model"]
    versions = (result.get("environment") or {}).get("versions") or {}
    rows = [
        ("Weights", f"sha256 {model['sha256']}"),
        ("Parameters", f"{model['num_parameters']:,}"),
        ("Dataset", dataset.get("id") or dataset.get("path") or dataset["name"]),
        ("Commit of the dataset", dataset.get("revision") or ""),
        ("Images and labels", dataset["fingerprint"].replace(":", " ", 1)),
        ("Classes", f"{len(report.table.facts.names):,}"),
        ("Command", result.get("command") or ""),
        ("Versions", ", ".join(f"{key} {value}" for key, value in versions.items() if value)),
    ]
    return [(term, value) for term, value in rows if value]
