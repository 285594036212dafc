"""Read what several models said of the same images, and put it side by side.

Images are paired by the SHA-256 of their bytes and by their label, classes by their names: rows and
class numbers may differ from model to model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convzoo.evaluation.prediction_file import read_predictions, read_recorded_predictions
from convzoo.evaluation.prediction_table import NO_NUMBER, PredictionTable
from convzoo.evaluation.results import (
    NETWORK_FILES,
    EvalResult,
    read_results,
    read_written_result,
    results_folder,
)
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers
from convzoo.labels import have_no_names
from convzoo.report.reporting import choose_result, model_title, result_name
from convzoo.report.wording import count

Key = tuple[bytes, int, int]  # an image: digest, class, and which of its copies


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model with its predictions.

    Attributes:
        name: what tables call it.
        folder: that keeps its results; None for a file alone.
        result: its entry of `eval_results.json`; None for a predictions file alone.
        table: the predictions.
    """

    name: str
    folder: Path | None
    result: EvalResult | None
    table: PredictionTable


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What M models said of N images, in the order of the first model's.

    Attributes:
        models: whose predictions these are; each table has the N images in the same order.
        classes: names of all classes that any of the models knows.
        label: true class, int (N,).
        answers: first choice of each model, int (M, N); NO_NUMBER of unreadable images.
        hits: whether it is right, bool (M, N).
        left_out: how many images of each model another one does not have.
    """

    models: Sequence[Evaluated]
    classes: Sequence[str]
    label: np.ndarray
    answers: np.ndarray
    hits: np.ndarray
    left_out: Sequence[int]


def read_models(models: Sequence[str], result: str = "") -> list[Evaluated]:
    """Read the predictions of models.

    Args:
        models: model folders, networks in a file, predictions files, or results as `evaluate
            --output` writes them.
        result: which result of folders, by the name of its predictions file; by default the newest
            one of images that all folders have results of.

    Raises:
        FileNotFoundError: if there is no such model or no result with predictions.
        ValueError: if one is named twice, and as `read_results` and `read_predictions`.
    """
    if len(models) < 2:
        raise ValueError(f"a comparison needs two models at least; got {len(models)}")
    paths = [Path(model) for model in models]
    if twice := [str(path) for path, n in Counter(p.resolve() for p in paths).items() if n > 1]:
        raise ValueError(f"models must differ from each other; {twice[0]} is named twice")
    shared = _shared_fingerprints([home for path in paths if (home := results_folder(str(path)))])
    names = _names(paths)
    return [
        _read_model(path, name, result=result, shared=shared)
        for path, name in zip(paths, names, strict=True)
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names where they are unique, else whole paths."""
    titles = [_title(path) for path in paths]
    again = Counter(titles)
    return [str(p) if again[t] > 1 else t for p, t in zip(paths, titles, strict=True)]


def _title(path: Path) -> str:
    if path.is_dir():
        return model_title(path)
    return path.name if path.suffix in NETWORK_FILES else path.stem


def _shared_fingerprints(folders: Sequence[Path]) -> set[str]:
    found = [
        {each["dataset"]["fingerprint"] for each in read_results(folder) if "predictions" in each}
        for folder in folders
    ]
    return set.intersection(*found) if found else set()


def _read_model(path: Path, name: str, *, result: str, shared: set[str]) -> Evaluated:
    if path.suffix == ".json" and path.is_file():
        found = read_written_result(path)
        table = read_recorded_predictions(path.parent, found.get("predictions"), logits=False)
        return Evaluated(name=name, folder=None, result=found, table=table)
    home = results_folder(str(path)) or path
    if path.is_file() and home == path:
        table = read_predictions(path, logits=False)
        return Evaluated(name=name, folder=None, result=None, table=table)
    of_shared = [
        (each.get("date") or "", result_name(each))
        for each in (read_results(home) if home.is_dir() else [])
        if "predictions" in each and each["dataset"]["fingerprint"] in shared
    ]
    chosen = choose_result(home, result or (max(of_shared)[1] if of_shared else ""))
    table = read_recorded_predictions(home, chosen.get("predictions"), logits=False)
    return Evaluated(name=name, folder=home, result=chosen, table=table)


def pair(models: Sequence[Evaluated], *, common: bool = False) -> Paired:
    """Put predictions of the same images side by side.

    Args:
        models: two at least.
        common: compare on the images that all have; otherwise all must have the same.

    Raises:
        ValueError: if the images or their labels differ, or the classes cannot be matched.
    """
    classes, numbers = match_model_classes(models)
    keys = [
        _keys(model.table, number[model.table.label])
        for model, number in zip(models, numbers, strict=True)
    ]
    shared = set(keys[0]).intersection(*keys[1:])
    if not shared or (not common and any(len(each) > len(shared) for each in keys)):
        raise ValueError(_images_differ(models, keys, shared=len(shared)))
    order = [key for key in keys[0] if key in shared]
    tables = [
        model.table.take(np.array([places[key] for key in order]))
        for model, places in zip(models, keys, strict=True)
    ]
    paired = [
        Evaluated(name=model.name, folder=model.folder, result=model.result, table=table)
        for model, table in zip(models, tables, strict=True)
    ]
    first_choices = [
        np.append(number, NO_NUMBER)[table.top_classes[:, 0]]  # -1 finds the last entry
        for table, number in zip(tables, numbers, strict=True)
    ]
    return Paired(
        models=paired,
        classes=classes,
        label=numbers[0][tables[0].label],
        answers=np.stack(first_choices),
        hits=np.stack([table.hits() for table in tables]),
        left_out=[len(each) - len(shared) for each in keys],
    )


def _keys(table: PredictionTable, labels: np.ndarray) -> dict[Key, int]:
    """Where each image is; copies with one label are counted through."""
    seen: Counter[tuple[bytes, int]] = Counter()
    places: dict[Key, int] = {}
    for place, (digest, label) in enumerate(zip(table.digest, labels.tolist(), strict=True)):
        image = digest.tobytes(), label
        places[*image, seen[image]] = place
        seen[image] += 1
    return places


def _images_differ(
    models: Sequence[Evaluated], keys: Sequence[dict[Key, int]], *, shared: int
) -> str:
    digests = [{digest for digest, _, _ in each} for each in keys]
    have = ", ".join(
        f"{model.name} has {count(len(model.table), 'image')} of "
        f"{model.table.facts.dataset.get('name', '?')} "
        f"[{model.table.facts.dataset.get('split', '?')}]"
        for model in models
    )
    if all(each == digests[0] for each in digests):
        return (
            f"models must have been evaluated on the same images with the same labels; the images "
            f"are the same, but only {shared:,} have the same label in all: {have}. Look at the "
            f"names of their classes, and evaluate them again on the same labels"
        )
    remedy = f"--common compares the {shared:,} that all have" if shared else "None is in all"
    return (
        f"models must have been evaluated on the same images; {have}, and {shared:,} are in all. "
        f"Evaluate them on the same split. {remedy}"
    )


def match_model_classes(models: Sequence[Evaluated]) -> tuple[list[str], list[np.ndarray]]:
    """Find which classes of models are the same ones.

    Names are compared as they are; where they differ, as WordNet entries of ImageNet-1k. A model
    whose classes are called LABEL_0, LABEL_1, ... is matched by number.

    Returns:
        The names of all classes, and for each model the number among them of each of its classes.

    Raises:
        ValueError: if a name occurs twice, or numbers are compared and their numbers differ.
    """
    names = [model.table.facts.names for model in models]
    everyone = [np.arange(len(each)) for each in names]
    if all(each == names[0] for each in names):
        return list(names[0]), everyone
    named = [each for each in names if not have_no_names(each)]
    if len(named) < len(names):
        if len({len(each) for each in names}) > 1 or any(each != named[0] for each in named):
            raise ValueError(
                f"a model whose classes have no names is matched by number, so all must have the "
                f"same classes in the same order; got {', '.join(str(len(n)) for n in names)} "
                f"classes"
            )
        return list(named[0] if named else names[0]), everyone
    for model, each in zip(models, names, strict=True):
        if twice := [name for name, times in Counter(each).items() if times > 1]:
            raise ValueError(
                f"class names must differ from each other to be matched; {model.name} has "
                f"{twice[0]!r} twice, and the models do not have the same names"
            )
    union = list(dict.fromkeys(name for each in names for name in each))
    if len(union) > max(map(len, names)):  # neither has all of them: spelt in two ways, perhaps
        try:
            return imagenet_names(), [np.array(imagenet_numbers(each)) for each in names]
        except ValueError:
            pass
    place = {name: number for number, name in enumerate(union)}
    return union, [np.array([place[name] for name in each]) for each in names]
