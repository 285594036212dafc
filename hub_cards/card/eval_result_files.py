"""Write the Hub's own files of results, `.eval_results/*.yaml`, from the evidence of the card.

The Hub shows such a result where the dataset is a registered benchmark: its `eval.yaml` must have a
task of this id. No dataset of image classification was one in November 2026, so these files are
written on demand only; the model-index of the card has the same numbers.

Source: https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from hub_cards.card.evaluation_facts import accuracies, protocol_label
from hub_cards.card.formatting import joined
from hub_cards.card.validation import RULES
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record, replace_text

FOLDER = ".eval_results"
HEADER = "# Written by hub_cards from eval_results.json; do not edit.\n"


def write_eval_result_files(evidence: Evidence, create: bool = True) -> list[Path]:
    """Bring the files of a model folder up to date, one for each dataset of the Hub.

    Results on parts of a split, or on data that is not on the Hub, are left out: they must not rank
    beside others. Files that somebody else has written are left alone.

    Args:
        evidence: what the folder holds.
        create: also where the folder has no such file of ours yet.

    Returns:
        The files that there are now.

    Raises:
        FileExistsError: if a file of that name was written by somebody else.
        ValueError: if a result is not what the Hub reads.
    """
    folder = evidence.folder / FOLDER
    present = [path for path in folder.glob("*.yaml") if _is_ours(path)]
    if not (create or present):
        return []
    contents = {folder / name: text for name, text in _contents(evidence).items()}
    for path in set(present) - contents.keys():
        path.unlink()
    for path, text in contents.items():
        if path.exists() and path not in present:
            raise FileExistsError(f"{path} was not written by hub_cards, and was left as it is")
        folder.mkdir(exist_ok=True)
        replace_text(path, text)
    return sorted(contents)


def _is_ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(HEADER)


def _contents(evidence: Evidence) -> dict[str, str]:
    entries: dict[str, list[EvalResultEntry]] = {}
    for result in evidence.eval_results:
        dataset = result["dataset"]
        if dataset.get("id") and not dataset.get("subset"):
            file = re.sub(r"[^\w.-]+", "_", dataset["id"]) + ".yaml"
            entries.setdefault(file, []).extend(_entries(evidence, result))
    return {name: HEADER + _dump(found, name) for name, found in entries.items()}


def _entries(evidence: Evidence, result: Record) -> Iterator[EvalResultEntry]:
    dataset = result["dataset"]
    for title, key in accuracies(evidence):
        if result["metrics"].get(key) is not None:
            notes = [
                f"{title}, a fraction",
                dataset.get("config") and f"configuration {dataset['config']}",
                f"split {dataset['split']}",
                f"{dataset['num_samples']:,} images",
                protocol_label(evidence, result) or "one view",
                f"weights sha256:{evidence.weights.sha256}",
            ]
            yield EvalResultEntry(
                dataset_id=dataset["id"],
                task_id=result["task"],
                value=result["metrics"][key],
                dataset_revision=dataset.get("revision"),
                date=result.get("date"),
                notes=joined(notes),
            )


def _dump(entries: list[EvalResultEntry], name: str) -> str:
    for entry in entries:
        if not re.fullmatch(RULES["metadata"]["id_pattern"], entry.dataset_id):
            raise ValueError(f"dataset.id in {name} must be a Hub id; got {entry.dataset_id!r}")
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    if parse_eval_result_entries(yaml.safe_load(text)) != entries:
        raise ValueError(f"{name} does not read as it was written; got\n{text}")
    return text
