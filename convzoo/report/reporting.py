"""Report the mistakes of a model: choose a result, read its predictions and images, write the page.

python -m convzoo report runs/quickstart/model
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convzoo.data.opening import DatasetReference
from convzoo.errors import expected_problem
from convzoo.evaluation.prediction_file import read_recorded_predictions
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.recorded_share import TRAIN_RESULTS
from convzoo.evaluation.results import (
    FILE,
    EvalResult,
    is_validation_share,
    read_results,
    results_folder,
)
from convzoo.files import file_sha256, read_json, write_text
from convzoo.model_names import load_model
from convzoo.report.illustrations import Explainer, Illustration, illustrate
from convzoo.report.page import TRAINING, Lists, Report, choose_images, render_page
from convzoo.report.png_figures import save_figures
from convzoo.report.rereading import open_recorded_data
from convzoo.report.wording import count

logger = logging.getLogger(__name__)
PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report is to show.

    Attributes:
        result: which result, by the name of its predictions file without ending; the newest if "".
        data: where the dataset lies now; None for where it was.
        output: the HTML file; None for report.html in the model folder.
        images: images in each list, at most.
        grad_cam: whether to draw heat maps of wrong answers.
        figures: whether to draw PNG files, too, beside the page.
    """

    result: str = ""
    data: DatasetReference | None = None
    output: Path | None = None
    images: int = 24
    grad_cam: bool = True
    figures: bool = False


def report_model(model_folder: str, options: ReportOptions) -> list[Path]:
    """Write the report of an evaluation of a model.

    Returns:
        The page, and the figures if they were asked for.

    Raises:
        FileNotFoundError: if the folder has no such result, or the result no predictions file.
        ValueError: if results, predictions and weights are not of each other.
        OSError: if the page cannot be written.
    """
    folder = results_folder(model_folder) or Path(model_folder)
    result = choose_result(folder, options.result)
    table = read_recorded_predictions(folder, result.get("predictions"), logits=False)
    _check_weights(Path(model_folder), folder, result)
    lists = choose_images(table, options.images)
    trained_on = was_trained_on(folder, result)
    warnings = [TRAINING[True]] if trained_on else []
    illustrations, problem = _illustrations(
        folder, table, result=result, lists=lists, options=options
    )
    if problem:
        logger.warning("%s", problem)
        warnings.append(problem)
    if options.grad_cam and (form := result["model"].get("format")):
        warnings.append(
            f"No heat maps are drawn: of a model as {form} there are no gradients here."
        )
    page = options.output or folder / PAGE
    report = Report(
        title=model_title(Path(model_folder)),
        result=result,
        table=table,
        lists=lists,
        illustrations=illustrations,
        trained_on=trained_on,
        warnings=warnings,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render_page(report))
    return [page, *(save_figures(page.parent, result, table) if options.figures else ())]


def choose_result(folder: Path, name: str = "") -> EvalResult:
    """Choose the result with this name; the newest one that has predictions if "".

    Raises:
        FileNotFoundError: if there is none.
        ValueError: as `read_results`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MODEL must be a model folder, which keeps predictions; there is no folder {folder}. "
            f"Of a model on the Hub, `hf download` makes one"
        )
    results = read_results(folder)
    named = {result_name(each): each for each in results if "predictions" in each}
    if not named:
        raise FileNotFoundError(
            f"{folder / FILE} must have a result with predictions; it has "
            f"{count(len(results), 'result')}, none with them. Evaluate the model: "
            f"`convzoo evaluate {folder} --data DATASET`"
        )
    if name and name not in named:
        raise FileNotFoundError(
            f"--result must be one of those of {folder}: {', '.join(named)}; got {name!r}"
        )
    newest = max(named, key=lambda each: (named[each].get("date") or "", each))
    if not name and len(named) > 1:
        others = ", ".join(each for each in named if each != newest)
        logger.info("of the newest result, %s; --result takes another: %s", newest, others)
    return named[name or newest]


def result_name(result: EvalResult) -> str:
    """Return the name of a result: of its predictions file, without ending."""
    return Path(result["predictions"]["file"]).stem


def was_trained_on(folder: Path, result: EvalResult) -> bool | None:
    """Tell whether a model was trained on the split of a result; None where that is not recorded.

    The share that a training left out for validation was not trained on.
    """
    path = folder / TRAIN_RESULTS
    try:
        trained = read_json(path)["dataset"]
        split, names = trained["split"], _names(trained)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    dataset = result["dataset"]
    if not names & _names(dict(dataset)):
        return False
    return bool(dataset["split"] == split and not is_validation_share(dataset))


def _names(dataset: dict[str, Any]) -> set[str]:
    return {str(dataset[key]) for key in ("id", "path") if dataset.get(key)}


def model_title(folder: Path) -> str:
    """Name the model: its folder, or that of its run."""
    name = folder.resolve().name
    return folder.resolve().parent.name if name == "model" else name


def _check_weights(model: Path, folder: Path, result: EvalResult) -> None:
    weights = (
        model if model.is_file() else folder / result["model"].get("file", "model.safetensors")
    )
    if not weights.is_file() or file_sha256(weights) != result["model"]["sha256"]:
        raise ValueError(
            f"{weights} must be the weights that were evaluated; they are others, or not there. "
            f"Evaluate the model again"
        )


def _illustrations(
    folder: Path,
    table: PredictionTable,
    *,
    result: EvalResult,
    lists: Lists,
    options: ReportOptions,
) -> tuple[dict[int, Illustration], str]:
    """Read the images of a page again; and say what is missing, or ""."""
    if not options.images:
        return {}, ""
    try:
        source = open_recorded_data(table, options.data, results=[result])
    except (OSError, ValueError, ConnectionError) as error:
        return {}, (
            f"No images are shown: the dataset could not be opened ({expected_problem(error)}). "
            f"Where it has moved, --data says where it is."
        )
    explained = options.grad_cam and "format" not in result["model"]
    explainer = _load(folder, table) if explained else None
    found, problem = illustrate(
        table, source, shown=lists.shown, explained=lists.errors, explainer=explainer
    )
    missing = len(lists.shown) - len(found)
    if problem:
        return found, f"{count(missing, 'image')} could not be read again ({problem})."
    if missing:
        return found, (
            f"Not shown: {count(missing, 'image')} of {len(lists.shown)} on this page, which the "
            f"dataset no longer has as they were at the evaluation."
        )
    return found, ""


def _load(folder: Path, table: PredictionTable) -> Explainer:
    model, processor = load_model(str(folder))
    evaluated = dict(table.facts.protocol.get("image_processor") or {})
    if evaluated:  # as it was then, whatever preprocessor_config.json says now
        processor = type(processor)(**processor.to_dict() | evaluated)
    return Explainer(model, processor)
