"""Render a model card from a folder's evidence, check it, and write it.

A card ends with a hash of itself. Where README.md does not agree with its hash, a person has edited
it, and it is only replaced on demand.
"""

import hashlib
import re
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from hub_cards import facts
from hub_cards.evidence import Evidence, read_evidence
from hub_cards.validation import card_problems

HASH_LINE = re.compile(r"<!-- hub_cards sha256:([0-9a-f]{64}) -->\s*\Z")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(
    folder: str | Path,
    repo_id: str | None = None,
    output: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write the card of a model folder.

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
    card = render_card(read_evidence(folder), repo_id)
    path = Path(output) if output else folder / "README.md"
    present = path.read_text(encoding="utf-8") if path.is_file() else None
    if present is not None and not force and not is_generated(present):
        raise FileExistsError(
            f"{path} was edited by hand or not written by hub_cards, and was left as it is. "
            "Move your text elsewhere, or replace it with --force."
        )
    if present != card:
        path.write_text(card, encoding="utf-8", newline="\n")
    return path


def is_generated(card: str) -> bool:
    """Whether a card is exactly what this program wrote."""
    match = HASH_LINE.search(card)
    return bool(match) and match[1] == _sha256(card[: match.start()])


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
        body = environment.get_template(f"{evidence.model_type}.md").render(
            _context(evidence, name, repo_id)
        )
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"{evidence.folder / 'config.json'} must have all fields of a {evidence.model_type} "
            f"configuration; {error}. Save the model again with save_pretrained."
        ) from error
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{card_metadata(evidence, name).to_yaml()}\n---\n\n{body}\n\n"
    problems = card_problems(text, evidence.folder)
    if problems:
        raise ValueError(
            f"the card of {evidence.folder} breaks {len(problems)} rule(s), and was not written:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    return f"{text}<!-- hub_cards sha256:{_sha256(text)} -->\n"


def card_metadata(evidence: Evidence, name: str) -> ModelCardData:
    """The card's front matter, with one model-index entry for each evaluated dataset.

    Args:
        evidence: what the folder holds.
        name: the model's name in the model-index.
    """
    datasets = [result["dataset"] for result in evidence.eval_results]
    if evidence.train_results and evidence.train_results.get("dataset"):
        datasets.insert(0, evidence.train_results["dataset"])
    ids = dict.fromkeys(id for dataset in datasets for id in facts.dataset_ids(dataset))
    return ModelCardData(
        license=facts.weights_license(evidence),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["convzoo", evidence.model_type, "vision"],
        datasets=list(ids) or None,
        metrics=["accuracy"] if evidence.eval_results else None,
        model_name=name if evidence.eval_results else None,
        eval_results=[
            entry for result in evidence.eval_results for entry in _index_entries(evidence, result)
        ]
        or None,
    )


def _index_entries(evidence, result):
    dataset = result["dataset"]
    label = facts.protocol_label(evidence, result)
    for title, key in facts.accuracies(evidence):
        if result["metrics"].get(key) is not None:
            yield EvalResult(
                task_type=result["task"],
                task_name="Image Classification",
                dataset_type=_dataset_type(dataset),
                dataset_name=facts.dataset_name(dataset),
                dataset_config=dataset.get("config"),
                dataset_split=dataset["split"],
                dataset_revision=dataset.get("revision"),
                metric_type="accuracy",
                metric_name=f"{title} ({label})" if label else title,
                metric_value=result["metrics"][key],
            )


def _dataset_type(dataset):
    """The Hub id of a whole split; of a sample a slug: it must not rank as what it is from."""
    if dataset.get("id") and not dataset.get("subset"):
        return dataset["id"]
    return re.sub(r"[^a-z0-9_.]+", "-", facts.dataset_name(dataset).lower()).strip("-")


def _headline(evidence, result):
    dataset, label = result["dataset"], facts.protocol_label(evidence, result)
    article = "" if dataset.get("subset") else "the "
    return (
        f"**{facts.percent(result['metrics']['top1_accuracy'])} top-1 accuracy** on "
        f"{article}{dataset['num_samples']:,} images of {facts.dataset_name(dataset)}, split "
        f"`{dataset['split']}`{f' ({label})' if label else ''}."
    )


def _model_name(evidence, repo_id):
    if repo_id:
        return repo_id.split("/")[1]
    run = evidence.recipe.get("run", {}).get("name") or (evidence.train_results or {}).get("recipe")
    return f"{evidence.model_type}-{run}" if run else evidence.model_type


def _context(evidence, name, repo_id):
    train = evidence.train_results or {}
    commands = [train.get("command")] + [result.get("command") for result in evidence.eval_results]
    evaluation_header, evaluation_rows = facts.evaluation_table(evidence)
    return {
        "title": name,
        "repo_id": repo_id,
        "model": repo_id or ".",
        "config": evidence.config,
        "num_classes": f"{len(evidence.labels):,}",
        "num_parameters": f"{evidence.weights.num_parameters:,}",
        "top_k": min(5, len(evidence.labels)),
        "code_files": ", ".join(f"[{file}]({file})" for file in evidence.code_files),
        "details": facts.detail_rows(evidence),
        "preprocessing": facts.preprocessing_steps(evidence),
        "training_data": facts.training_data_rows(evidence),
        "recipe": facts.recipe_rows(evidence),
        "training": facts.training_rows(evidence),
        "training_curve": (evidence.folder / "training_curve.png").is_file(),
        "progress": facts.progress_rows(evidence),
        "headlines": [_headline(evidence, result) for result in evidence.eval_results],
        "evaluation_header": evaluation_header,
        "evaluation_rows": evaluation_rows,
        "evaluation_details": [
            (facts.dataset_link(result["dataset"]), facts.evaluation_rows(evidence, result))
            for result in evidence.eval_results
        ],
        "quoted": facts.quoted_rows(evidence),
        "commands": list(dict.fromkeys(filter(None, commands))),
        "convzoo_version": (train.get("environment") or {}).get("versions", {}).get("convzoo"),
        "license": facts.weights_license(evidence),
        "code_license": facts.CODE_LICENSE,
        "project": evidence.conversion.get("project"),
    }


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()
