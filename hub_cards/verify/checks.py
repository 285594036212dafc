"""The single checks of a verification: each holds, does not hold, or could not be made.

What could not be made is never said to hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

from hub_cards.card.evaluation_facts import headline, result_table
from hub_cards.card.formatting import dataset_name, percent
from hub_cards.card.rendering import HASH_LINE, card_metadata, is_generated, render_card
from hub_cards.card.validation import FRONT_MATTER
from hub_cards.evidence.folder import Evidence
from hub_cards.hub.staging import StagedFile
from hub_cards.verify.intervals import (
    MIN_IMAGES_OF_MEAN,
    TOLERATED_SHARE,
    hits_interval,
    mean_interval,
    tolerated_images,
    tolerated_loss,
)

HOLDS, FAILS, OPEN = "holds", "does not hold", "not checked"
METRICS = {"top1_accuracy": "top-1", "top5_accuracy": "top-5", "loss": "loss"}
ERROR_RATE = 0.01  # how often a card that is right may be called wrong by a sample


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        name: what was checked.
        verdict: HOLDS, FAILS or OPEN.
        detail: what was found, or why it could not be checked.
        about: the evaluation that it belongs to; "" for the repository.
        facts: numbers behind the verdict.
    """

    name: str
    verdict: str
    detail: str
    about: str = ""
    facts: dict = field(default_factory=dict)


def check_files(listed: Sequence, found: dict[str, StagedFile], folder: Path) -> Check:
    """Compare downloaded files with the Hub's list: SHA-256 of large ones, git's id of others.

    Args:
        listed: the files as `HfApi.model_info` gives them with their metadata.
        found: the files as they lie here.
        folder: where.
    """
    wrong = []
    for file in listed:
        here = found.get(file.rfilename)
        wanted = file.lfs.sha256 if file.lfs else file.blob_id
        if not here or wanted != (here.sha256 if file.lfs else here.git_oid):
            wrong.append(file.rfilename)
    if wrong:
        return Check(
            "files",
            FAILS,
            f"{', '.join(wrong)} in {folder} differ from what the Hub lists. Delete that folder "
            "and what its links point to, and verify again.",
        )
    large = sum(bool(file.lfs) for file in listed)
    return Check(
        "files",
        HOLDS,
        f"{len(listed)} files as the Hub lists them: SHA-256 of {large}, git ids of "
        f"{len(listed) - large}",
    )


def check_metadata(evidence: Evidence, card: str) -> Check:
    """Compare the model-index of a card with `eval_results.json`, number by number."""
    name = "card, metadata"
    expected = {
        _identity(entry): entry.metric_value
        for entry in card_metadata(evidence, "model").eval_results or ()
    }
    try:
        match = FRONT_MATTER.match(card.replace("\r\n", "\n"))
        index = (yaml.safe_load(match[1]) or {}).get("model-index") if match else None
        entries = model_index_to_eval_results(index)[1] if index else []
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        return Check(name, FAILS, f"the model-index of README.md cannot be read; {error!r}")
    wrong = [
        f"{_label(entry)}: the card says {entry.metric_value}, eval_results.json "
        f"{expected[_identity(entry)]}"
        for entry in entries
        if expected.get(_identity(entry), entry.metric_value) != entry.metric_value
    ]
    if wrong:
        return Check(name, FAILS, "; ".join(wrong))
    unproven = [_label(entry) for entry in entries if _identity(entry) not in expected]
    if unproven:
        return Check(name, OPEN, f"eval_results.json does not have: {'; '.join(unproven)}")
    if not entries:
        return Check(name, OPEN, "the card has no model-index")
    return Check(name, HOLDS, f"{len(entries)} numbers of the model-index, as in eval_results.json")


def _identity(entry):
    dataset = (entry.dataset_type, entry.dataset_config, entry.dataset_split)
    return (*dataset, entry.dataset_revision, entry.metric_type, entry.metric_name)


def _label(entry):
    return f"{entry.metric_name} on {entry.dataset_name} [{entry.dataset_split}]"


def check_text(evidence: Evidence, card: str, repo_id: str | None) -> Check:
    """Compare a card with the one that this version writes; else look for results that are gone.

    Anybody can sign a card, or hide true sentences in one, so only an equal text holds.

    Args:
        evidence: what the folder holds.
        card: the text of its README.md.
        repo_id: where it lies on the Hub; None for a folder.
    """
    name = "card, text"
    try:
        if card.replace("\r\n", "\n") == render_card(evidence, repo_id):
            return Check(name, HOLDS, "as it is written from the files")
    except ValueError as error:
        return Check(name, OPEN, " ".join(str(error).split()))
    rows = result_table(evidence)[1]
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    expected = [headline(evidence, result) for result in evidence.eval_results]
    expected += [f"| {' | '.join(row)} |" for row in cells]
    absent = [line for line in expected if line not in card.splitlines()]
    if is_generated(card):
        return Check(name, OPEN, "written by another version of hub_cards, or for another name")
    if not absent:
        detail = "the results of eval_results.json are there, the rest cannot be checked"
        return Check(name, OPEN, f"edited by hand; {detail}")
    if not HASH_LINE.search(card):
        return Check(name, OPEN, "not written by hub_cards")
    return Check(name, FAILS, f"edited by hand since hub_cards wrote it; gone is: {absent[0]}")


def check_loading(loaded: dict, trusted: bool) -> list[Check]:
    """What the evaluating process says of weights and code.

    Args:
        loaded: see `convzoo.evaluation.remeasuring.load_strictly`.
        trusted: whether the repository's code was allowed to run.
    """
    if loaded["code"] is None:
        return [Check("weights", FAILS, f"there is no code to load them with; {loaded['error']}")]
    others = [name for name, is_ours in loaded["files"].items() if not is_ours]
    files = ", ".join(loaded["files"])
    if trusted:
        code = Check("code", HOLDS, f"the repository's own code ran: {loaded['code']}")
    elif others:
        code = Check(
            "code",
            OPEN,
            f"{', '.join(others)} differ from this package's code, which ran instead "
            f"({loaded['code']}). Read them, then let them run with --trust-remote-code.",
        )
    else:
        code = Check("code", HOLDS, f"{files}: as in this package, which ran ({loaded['code']})")
    if loaded["error"]:
        # That other code cannot load these weights says nothing about them.
        verdict = OPEN if others and not trusted else FAILS
        return [code, Check("weights", verdict, f"cannot be loaded; {loaded['error']}")]
    return [code, Check("weights", HOLDS, "loaded strictly: no tensor missing, none left over")]


def check_results(results: Sequence[dict], answers: Sequence[dict]) -> list[Check]:
    """Compare recorded with repeated measurements.

    All images must give the recorded number of correct answers, but for what may differ between two
    machines; of a sample, the interval for all images must have it. The intervals are so wide that
    all together are wrong at most once in a hundred samples. A mean loss above its interval is no
    contradiction: a good model has few large losses, and a sample without them shows too little.

    Args:
        results: entries of `eval_results.json`.
        answers: for each, see `convzoo.evaluation.remeasuring.reevaluate`.
    """
    sampled = [answer for answer in answers if answer.get("seen", 0) < answer.get("num_images", 0)]
    alpha = ERROR_RATE / max(1, len(sampled) * len(METRICS))
    checks = []
    for number, (result, answer) in enumerate(zip(results, answers, strict=True)):
        try:
            checks += [*_check_result(result, answer, alpha)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            detail = f"not as `convzoo evaluate` writes it; {error!r}"
            checks.append(Check("result", FAILS, detail, f"results[{number}] of eval_results.json"))
    return checks


def _check_result(result, answer, alpha):
    views = (result.get("protocol") or {}).get("views", 1)
    about = f"{dataset_name(result['dataset'])} [{result['dataset']['split']}]"
    about += f", {views} views" if views != 1 else ""
    if "reason" in answer:
        yield Check("images", OPEN, answer["reason"], about)
        return
    yield _check_images(result, answer, about)
    for metric, name in METRICS.items():
        claimed = result["metrics"].get(metric)
        if claimed is not None:
            compare = _compare_losses if metric == "loss" else _compare_hits
            verdict, detail, facts = compare(claimed, answer, metric, alpha)
            facts = {"metric": metric, "recorded": claimed} | facts
            yield Check(name, verdict, detail, about, facts)
    if answer["seen"] == answer["num_images"]:
        yield from _check_breakdown(result, answer, about)


def _check_breakdown(result, answer, about):
    """Classes and calibration, which only all images can tell."""
    recorded, measured = (
        {
            row["class"]: (row["num_samples"], row["num_correct"])
            for row in table.get("classes") or ()
        }
        for table in (result, answer)
    )
    if recorded:
        # In its own class an answer that turns is not made up for by one that turns back elsewhere.
        apart = sum(abs(recorded[key][1] - measured[key][1]) for key in recorded.keys() & measured)
        same_images = {key: row[0] for key, row in recorded.items()} == {
            key: row[0] for key, row in measured.items()
        }
        holds = same_images and apart <= 2 * tolerated_images(answer["num_images"])
        detail = f"{len(recorded)} classes, {_apart(apart)}" if same_images else "other classes"
        yield Check("classes", HOLDS if holds else FAILS, detail, about)
    error = (result.get("calibration") or {}).get("expected_calibration_error")
    if error is not None:
        measured = answer["calibration"]["expected_calibration_error"]
        holds = abs(error - measured) <= TOLERATED_SHARE
        detail = f"recorded error {percent(error)}, measured {percent(measured)}"
        yield Check("calibration", HOLDS if holds else FAILS, detail, about)


def _apart(images):
    return f"{images or 'no'} image{'s' * (images != 1)} apart"


def _check_images(result, answer, about):
    proof = {
        "fingerprint": "have the recorded fingerprint",
        "commit": f"are those of the recorded commit {result['dataset'].get('revision')}",
    }[answer["identified"]]
    seen, images = answer["seen"], answer["num_images"]
    part = f"; {seen:,} of them drawn at random" if seen < images else ""
    detail = f"all {images:,} of {answer['data']} [{answer['split']}] {proof}{part}"
    facts = {key: answer[key] for key in ("data", "split", "identified", "num_images", "seen")}
    return Check("images", HOLDS, detail, about, facts)


def _compare_hits(claimed, answer, metric, alpha):
    hits, seen, images = answer[metric], answer["seen"], answer["num_images"]
    tolerance = tolerated_images(images)
    facts = {"measured": hits / seen, "tolerance": tolerance / images}
    said = f"recorded {percent(claimed)}, measured {percent(hits / seen)}"
    low = high = hits
    if seen < images:
        low, high = hits_interval(hits, seen, images, alpha)
        facts |= {"interval": [low / images, high / images], "confidence": 1 - alpha}
        said += f", so in [{100 * low / images:.2f}, {100 * high / images:.2f}] %"
    recorded = round(claimed * images, 6)  # a fraction times its images is no whole number
    verdict = HOLDS if low - tolerance <= recorded <= high + tolerance else FAILS
    if verdict == FAILS or low != high:
        return verdict, said, facts
    return verdict, f"{said}, {_apart(abs(hits - round(claimed * images)))}", facts


def _compare_losses(claimed, answer, metric, alpha):
    mean, seen, images = answer["loss"], answer["seen"], answer["num_images"]
    facts = {"measured": mean, "tolerance": tolerated_loss(claimed)}
    said = f"recorded {claimed:.4f}, measured {mean:.4f}"
    low = high = mean
    if seen < images:
        if seen < MIN_IMAGES_OF_MEAN:
            return OPEN, f"{said}; a sample for it needs {MIN_IMAGES_OF_MEAN} images", facts
        low, high = mean_interval(mean, answer["loss_deviation"], seen, images, alpha)
        facts |= {"interval": [low, high], "confidence": 1 - alpha}
        said += f", so in [{low:.4f}, {high:.4f}]"
        if claimed > high + facts["tolerance"]:
            return OPEN, f"{said}; a sample may have missed the few large losses", facts
    holds = low - facts["tolerance"] <= claimed <= high + facts["tolerance"]
    return HOLDS if holds else FAILS, said, facts
