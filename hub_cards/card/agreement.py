"""Compare a card that a person may have edited with the results that it tells of."""

from dataclasses import dataclass

import yaml
from huggingface_hub.repocard_data import EvalResult, model_index_to_eval_results

from hub_cards.card.evaluation_facts import headline, result_table
from hub_cards.card.rendering import card_metadata
from hub_cards.card.validation import FRONT_MATTER
from hub_cards.evidence.folder import Evidence


@dataclass(frozen=True)
class IndexComparison:
    """What a model-index says of `eval_results.json`.

    Attributes:
        wrong: a sentence for each number that is another there.
        unproven: names of numbers that are not there.
        count: numbers of the model-index.
    """

    wrong: list[str]
    unproven: list[str]
    count: int


def compare_index(evidence: Evidence, card: str) -> IndexComparison:
    """Compare the model-index of a card with `eval_results.json`, number by number.

    Raises:
        ValueError: if the model-index cannot be read.
    """
    expected = {
        _identity(entry): entry.metric_value
        for entry in card_metadata(evidence, "model").eval_results or ()
    }
    try:
        match = FRONT_MATTER.match(card.replace("\r\n", "\n"))
        index = (yaml.safe_load(match[1]) or {}).get("model-index") if match else None
        entries = model_index_to_eval_results(index)[1] if index else []
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the model-index of README.md cannot be read; {error!r}") from error
    return IndexComparison(
        wrong=[
            f"{_label(entry)}: the card says {entry.metric_value}, eval_results.json "
            f"{expected[_identity(entry)]}"
            for entry in entries
            if expected.get(_identity(entry), entry.metric_value) != entry.metric_value
        ],
        unproven=[_label(entry) for entry in entries if _identity(entry) not in expected],
        count=len(entries),
    )


def absent_results(evidence: Evidence, card: str) -> list[str]:
    """List the lines about results that a card would have as it is written, and has not."""
    rows = result_table(evidence)[1]
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    expected = [headline(evidence, result) for result in evidence.eval_results]
    expected += [f"| {' | '.join(row)} |" for row in cells]
    return [line for line in expected if line not in card.splitlines()]


def _identity(entry: EvalResult) -> tuple[object, ...]:
    dataset = (entry.dataset_type, entry.dataset_config, entry.dataset_split)
    return (*dataset, entry.dataset_revision, entry.metric_type, entry.metric_name)


def _label(entry: EvalResult) -> str:
    return f"{entry.metric_name} on {entry.dataset_name} [{entry.dataset_split}]"
