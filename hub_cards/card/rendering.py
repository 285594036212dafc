"""Render a model card from a folder's evidence, check it, and write it.

A card ends with a hash of itself. Where README.md does not agree with its hash, a person has edited
it, and it is only replaced on demand.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from hub_cards.card import evaluation_facts, training_facts
from hub_cards.card import model_facts as facts
from hub_cards.card.architecture import diagram
from hub_cards.card.emissions import emission_metadata, emission_rows, read_emissions
from hub_cards.card.eval_result_files import write_eval_result_files
from hub_cards.card.formatting import dataset_link, dataset_name, link, plain
from hub_cards.card.reliability import FILE as RELIABILITY_DIAGRAM
from hub_cards.card.reliability import write_reliability_diagram
from hub_cards.card.report_figures import CALIBRATION, CONFUSION, figure_of
from hub_cards.card.robustness import FILE as ROBUSTNESS_CURVES
from hub_cards.card.robustness import (
    largest_robustness,
    robustness_sentence,
    robustness_table,
    write_robustness_curves,
)
from hub_cards.card.validation import card_problems
from hub_cards.evidence.folder import Evidence, read_evidence
from hub_cards.files import Record, replace_text

MAX_WIDGET_IMAGES = 4
HASH_LINE = re.compile(r"<!-- hub_cards sha256:([0-9a-f]{64}) -->\s*\Z")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    output: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write the card of a model folder, and the diagrams that it shows: calibration and robustness.

    Args:
        folder: a finished model folder.
        repo_id: where the folder will be on the Hub, as user/name; the code on the card then loads
            it from there, else from the current folder.
        output: the file to write; README.md in the folder if None.
        force: replace a file that was edited by hand.

    Returns:
        The file. It is not touched when it holds this very card already.

    Raises:
        FileExistsError: if the file was not written by this program or was edited since.
        FileNotFoundError: if something the card needs is missing.
        ValueError: if the evidence is unusable or the card breaks a rule.
    """
    folder = Path(folder)
    evidence = read_evidence(folder)
    write_reliability_diagram(evidence)
    write_robustness_curves(evidence)
    write_eval_result_files(evidence, create=False)
    card = render_card(evidence, repo_id)
    path = Path(output) if output else folder / "README.md"
    present = path.read_text(encoding="utf-8") if path.is_file() else None
    if present is not None and not force and not is_generated(present):
        raise FileExistsError(
            f"{path} was edited by hand or not written by hub_cards, and was left as it is. "
            "Move your text elsewhere, or replace it with --force."
        )
    if present != card:
        replace_text(path, card)
    return path


def is_generated(card: str) -> bool:
    """Tell whether a card is exactly what this program wrote."""
    match = HASH_LINE.search(card)
    return match is not None and match[1] == _sha256(card[: match.start()])


def render_card(evidence: Evidence, repo_id: str | None = None) -> str:
    """The text of a card: front matter, body and the hash of both.

    Args:
        evidence: what the folder holds.
        repo_id: see `write_card`.

    Raises:
        ValueError: if repo_id is no Hub id, config.json lacks a field, or the card breaks a rule;
            the message then lists all the rules that it breaks.
    """
    if repo_id is not None and not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id must look like user/name; got {repo_id!r}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", r"\|").replace("\n", " ")
    name = _model_name(evidence, repo_id)
    try:
        names = [f"{evidence.model_type}.md", "model_card.md.jinja"]  # a family's prose, or none
        body = environment.select_template(names).render(_context(evidence, name, repo_id=repo_id))
    except (jinja2.UndefinedError, KeyError) as error:
        raise ValueError(
            f"{evidence.folder / 'config.json'} must have all fields of a {evidence.model_type} "
            f"configuration; {error}. Save the model again with save_pretrained."
        ) from error
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{card_metadata(evidence, name, repo_id=repo_id).to_yaml()}\n---\n\n{body}\n\n"
    problems = card_problems(text, evidence.folder)
    if problems:
        raise ValueError(
            f"the card of {evidence.folder} breaks {len(problems)} rule(s), and was not written:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    return signed(text)


def signed(card: str) -> str:
    """A card with its hash behind it, by which `is_generated` knows it."""
    return f"{card}<!-- hub_cards sha256:{_sha256(card)} -->\n"


def card_metadata(evidence: Evidence, name: str, *, repo_id: str | None = None) -> ModelCardData:
    """The card's front matter, with model-index metrics for each evaluated dataset and protocol.

    Args:
        evidence: what the folder holds.
        name: the model's name in the model-index.
        repo_id: see `write_card`; example images can only be linked there.
    """
    datasets = [result["dataset"] for result in evidence.eval_results]
    if evidence.train_results and evidence.train_results.get("dataset"):
        datasets.insert(0, evidence.train_results["dataset"])
    ids = dict.fromkeys(id for dataset in datasets for id in facts.dataset_ids(dataset))
    base, emissions = training_facts.base_model(evidence), read_emissions(evidence)
    return ModelCardData(
        license=facts.weights_license(evidence),
        license_name=facts.license_name(evidence),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["convzoo", evidence.model_type, "vision"],
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=list(ids) or None,
        metrics=["accuracy"] if evidence.eval_results else None,
        model_name=name if evidence.eval_results else None,
        eval_results=[
            entry for result in evidence.eval_results for entry in _index_entries(evidence, result)
        ]
        or None,
        co2_eq_emissions=emissions and emission_metadata(emissions, fine_tuned=bool(base)),
        widget=_widget(evidence, repo_id),
    )


def _widget(evidence: Evidence, repo_id: str | None) -> list[Record] | None:
    """The first example images of the folder, where the Hub will have them."""
    images = sorted((evidence.folder / "examples").glob("*.[jp][pn]g"))[:MAX_WIDGET_IMAGES]
    if not (repo_id and images):
        return None
    address = f"https://huggingface.co/{repo_id}/resolve/main/examples/"
    return [
        {
            "src": address + quote(path.name),
            "example_title": path.stem.partition("_")[2].replace("_", " ") or path.stem,
        }
        for path in images
    ]


def _index_entries(evidence: Evidence, result: Record) -> Iterator[EvalResult]:
    dataset = result["dataset"]
    label = evaluation_facts.protocol_label(evidence, result)
    for title, key in evaluation_facts.accuracies(evidence):
        if result["metrics"].get(key) is not None:
            yield EvalResult(
                task_type=result["task"],
                task_name="Image Classification",
                dataset_type=_dataset_type(dataset),
                dataset_name=dataset_name(dataset),
                dataset_config=dataset.get("config"),
                dataset_split=dataset["split"],
                dataset_revision=dataset.get("revision"),
                metric_type="accuracy",
                metric_name=f"{title} ({label})" if label else title,
                metric_value=result["metrics"][key],
            )


def _dataset_type(dataset: Record) -> str:
    """The Hub id of a whole split; of a sample a slug: it must not rank as what it is from."""
    subset = dataset.get("subset")
    if dataset.get("id") and not subset:
        return str(dataset["id"])
    # Two parts of equal size are told apart by their content.
    which = f" {(dataset.get('fingerprint') or '').removeprefix('sha256:')[:8]}" if subset else ""
    return re.sub(r"[^a-z0-9_.]+", "-", f"{dataset_name(dataset)}{which}".lower()).strip("-")


def _model_name(evidence: Evidence, repo_id: str | None) -> str:
    if repo_id:
        return repo_id.split("/")[1]
    run = evidence.recipe.get("run", {}).get("name") or (evidence.train_results or {}).get("recipe")
    return f"{evidence.model_type}-{run}" if run else evidence.model_type


def _context(evidence: Evidence, name: str, *, repo_id: str | None) -> dict[str, Any]:
    train, results = evidence.train_results or {}, evidence.eval_results
    corrupted = largest_robustness(evidence)
    measured = (*results, *filter(None, (corrupted,)))
    commands = [train.get("command"), *(result.get("command") for result in measured)]
    header, rows = evaluation_facts.result_table(evidence)
    emissions = read_emissions(evidence)
    project = evidence.conversion.get("project")
    versions = (train.get("environment") or {}).get("versions", {})
    calibrated = evaluation_facts.largest_with(evidence, "calibration")
    by_class = evaluation_facts.largest_with(evidence, "classes")
    drawn = RELIABILITY_DIAGRAM if (evidence.folder / RELIABILITY_DIAGRAM).is_file() else None
    return {
        "title": plain(name),
        "repo_id": repo_id,
        "model": repo_id or ".",
        "config": evidence.config,
        "model_type": evidence.model_type,
        "num_classes": f"{len(evidence.labels):,}",
        "num_parameters": f"{evidence.weights.num_parameters:,}",
        "sha256": evidence.weights.sha256,
        "top_k": min(5, len(evidence.labels)),
        "code_files": ", ".join(f"[{file}]({file})" for file in evidence.code_files),
        "diagram": diagram(evidence),
        "details": facts.detail_rows(evidence),
        "preprocessing": facts.preprocessing_steps(evidence),
        "training_data": training_facts.data_rows(evidence),
        "dataset_facts": facts.dataset_facts(train.get("dataset") or {}),
        "recipe": training_facts.recipe_rows(evidence),
        "training": training_facts.run_rows(evidence),
        "training_curve": (evidence.folder / "training_curve.png").is_file(),
        "progress": training_facts.progress_rows(evidence),
        "progress_title": training_facts.progress_title(evidence),
        "headlines": [evaluation_facts.headline(evidence, result) for result in results],
        "evaluation_header": header,
        "evaluation_rows": rows,
        "intervals": any(result.get("intervals_95") for result in results),
        "evaluation_details": [
            (dataset_link(result["dataset"]), evaluation_facts.measurement_rows(evidence, result))
            for result in results
        ],
        "quoted": facts.quoted_rows(evidence),
        "baselines": evaluation_facts.baseline_table(evidence) if evidence.baselines else None,
        "weak_spots": evaluation_facts.weak_spots(evidence),
        "calibration": evaluation_facts.calibration_sentence(evidence),
        "reliability_diagram": figure_of(evidence, calibrated, name=CALIBRATION) or drawn,
        "confusion_matrix": figure_of(evidence, by_class, name=CONFUSION),
        "steering": evaluation_facts.what_steered(evidence),
        "robustness": evaluation_facts.robustness_sentences(evidence),
        "corruptions": corrupted and robustness_sentence(corrupted),
        "corruption_table": robustness_table(corrupted) if corrupted else ([], []),
        "robustness_curves": ROBUSTNESS_CURVES
        if corrupted and (evidence.folder / ROBUSTNESS_CURVES).is_file()
        else None,
        "emissions": emission_rows(emissions) if emissions else [],
        "commands": list(dict.fromkeys(filter(None, commands))),
        "verify_command": _verify_command(evidence, repo_id),
        "convzoo_version": versions.get("convzoo"),
        "license": facts.license_name(evidence) or facts.weights_license(evidence),
        "code_license": facts.CODE_LICENSE,
        "origin": project and link("their origin", project),
    }


def _verify_command(evidence: Evidence, repo_id: str | None) -> str:
    """Write the command that verifies the model on the Hub; "" without data of its evaluations."""
    datasets = [result["dataset"] for result in evidence.eval_results]
    data = dict.fromkeys(filter(None, (each.get("id") or each.get("path") for each in datasets)))
    if not (repo_id and data):
        return ""
    labels = next(
        (r["real_labels"]["file"] for r in evidence.eval_results if "real_labels" in r), ""
    )
    real = f" --real-labels {shlex.quote(labels)}" if labels else ""
    return f"python -m hub_cards verify {repo_id} --data {shlex.join(data)}{real}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
