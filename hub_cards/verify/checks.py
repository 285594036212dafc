"""Check the files, the card and the code: each check holds, fails, or could not be made.

What could not be made is never said to hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.hf_api import RepoSibling

from hub_cards.card.agreement import absent_results, compare_index
from hub_cards.card.rendering import HASH_LINE, is_generated, render_card
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record
from hub_cards.hub.file_hashes import FileHashes

HOLDS, FAILS, OPEN = "holds", "does not hold", "not checked"
ALL_TENSORS = "loaded strictly: no tensor missing, none left over"


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
    facts: Record = field(default_factory=dict)


def check_files(
    listed: Sequence[RepoSibling], found: Mapping[str, FileHashes], *, folder: Path
) -> Check:
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
    try:
        found = compare_index(evidence, card)
    except ValueError as error:
        return Check(name, FAILS, str(error))
    if found.wrong:
        return Check(name, FAILS, "; ".join(found.wrong))
    if found.unproven:
        return Check(name, OPEN, f"eval_results.json does not have: {'; '.join(found.unproven)}")
    if not found.count:
        return Check(name, OPEN, "the card has no model-index")
    return Check(name, HOLDS, f"{found.count} numbers of the model-index, as in eval_results.json")


def check_text(evidence: Evidence, card: str, *, repo_id: str | None) -> Check:
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
    absent = absent_results(evidence, card)
    if is_generated(card):
        return Check(name, OPEN, "written by another version of hub_cards, or for another name")
    if not absent:
        detail = "the results of eval_results.json are there, the rest cannot be checked"
        return Check(name, OPEN, f"edited by hand; {detail}")
    if not HASH_LINE.search(card):
        return Check(name, OPEN, "not written by hub_cards")
    return Check(name, FAILS, f"edited by hand since hub_cards wrote it; gone is: {absent[0]}")


def check_loading(loaded: Record, *, trusted: bool) -> list[Check]:
    """Judge weights and code by what the evaluating process says of them.

    Args:
        loaded: see `convzoo.evaluation.strict_loading.load_strictly`.
        trusted: whether the repository's code was allowed to run.
    """
    if exported := loaded.get("exported"):
        ((file, sha256),) = exported.items()
        if loaded["error"]:
            return [Check("weights", OPEN, f"{file} was not run; {loaded['error']}")]
        detail = f"{file}, SHA-256 {sha256}, was run by {loaded['code']}"
        return [Check("weights", HOLDS, detail)]
    if loaded.get("needs_code"):
        return [Check("code", OPEN, loaded["error"]), Check("weights", HOLDS, ALL_TENSORS)]
    stock = loaded.get("stock")
    if stock and loaded["error"]:
        verdict = OPEN if loaded.get("library_missing") else FAILS
        return [Check("weights", verdict, f"cannot be loaded; {loaded['error']}")]
    if stock:
        code = [_check_code(loaded, trusted=trusted)] if loaded["files"] else []
        detail = f"loaded strictly by Transformers itself ({loaded['code']})"
        return [*code, Check("weights", HOLDS, detail)]
    if loaded["code"] is None:
        return [Check("weights", FAILS, f"there is no code to load them with; {loaded['error']}")]
    code_check = _check_code(loaded, trusted=trusted)
    if loaded["error"]:
        # That other code cannot load these weights says nothing about them.
        others = not all(loaded["files"].values())
        verdict = OPEN if others and not trusted else FAILS
        return [code_check, Check("weights", verdict, f"cannot be loaded; {loaded['error']}")]
    return [code_check, Check("weights", HOLDS, ALL_TENSORS)]


def _check_code(loaded: Record, *, trusted: bool) -> Check:
    """Judge the code of the repository, where it has some."""
    files = ", ".join(loaded["files"])
    others = [name for name, is_ours in loaded["files"].items() if not is_ours]
    ran = loaded.get("processor") or loaded["code"]
    if not files:
        return Check("code", HOLDS, f"the repository has none; this package's ran ({ran})")
    if trusted:
        return Check("code", HOLDS, f"the repository's own code ran: {ran}")
    if others:
        detail = (
            f"{', '.join(others)} differ from this package's code; {ran} ran instead. Read them, "
            "then let them run with --trust-remote-code."
        )
        return Check("code", OPEN, detail)
    return Check("code", HOLDS, f"{files}: as in this package, which ran ({ran})")
