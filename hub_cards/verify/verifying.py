"""Verify a published model: its files, its card, and the numbers on it by measuring them again.

The measurement runs in a process of its own (`convzoo.evaluation.remeasuring`), with this
package's code unless the user lets the repository's run.
"""

import json
import logging
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_cards.evidence.folder import FAMILIES, read_evidence
from hub_cards.hub.access import check_repo_id, open_hub
from hub_cards.hub.push_errors import PushError, cause, persist
from hub_cards.hub.staging import megabytes, staged_files
from hub_cards.verify.checks import (
    FAILS,
    HOLDS,
    OPEN,
    Check,
    check_files,
    check_loading,
    check_metadata,
    check_results,
    check_text,
)

logger = logging.getLogger(__name__)

EXIT_CODES = {HOLDS: 0, FAILS: 3, OPEN: 4}  # 1 is an error, and 2 a wrong command line
CLOSING = {
    HOLDS: "The results on the card hold.",
    FAILS: "Something does not hold.",
    OPEN: "Nothing contradicts the card, but not all of it was checked.",
}


@dataclass(frozen=True)
class Verification:
    """What was verified, and the outcome.

    Attributes:
        model: the Hub id or folder that was asked for.
        commit: full name of the commit; None for a folder.
        folder: where the files lie.
        files: SHA-256 of each of them.
        sample: images drawn for each evaluation; 0 for all.
        seed: of the drawing; None where there was none.
        environment: of the measurement; None where there was none.
        checks: one for each line of the report.
    """

    model: str
    commit: str | None
    folder: str
    files: dict[str, str]
    sample: int
    seed: int | None
    environment: dict | None
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """FAILS if a check does, else OPEN if one is, else HOLDS."""
        verdicts = {check.verdict for check in self.checks}
        return next(each for each in (FAILS, OPEN, HOLDS) if each in verdicts)


def verify(
    model: str,
    data: Sequence[str] = (),
    revision: str | None = None,
    sample: int = 0,
    seed: int | None = None,
    trust_remote_code: bool = False,
    **measuring,
) -> Verification:
    """Check a published model, as far as what is given allows.

    Args:
        model: Hub id, or a model folder.
        data: folders and Hub dataset ids with the images of its evaluations.
        revision: commit, tag or branch on the Hub; the main branch if None.
        sample: images to draw at random for each evaluation; all if 0.
        seed: of the drawing; a new one if None, so that nobody can prepare for it.
        trust_remote_code: run the repository's own code. Its process is no sandbox, and such code
            could also make up the numbers.
        measuring: `split`, `image_column`, `label_column`, `batch_size` and `num_workers`, as for
            `convzoo.evaluation.remeasuring.Request`.

    Raises:
        ValueError: if there is no such model or revision, or nothing to verify in it.
        FileNotFoundError: if files of a model folder are missing.
        PushError: if the Hub does not give the files.
    """
    checks, info, folder = [], None, Path(model)
    if folder.is_dir():
        if revision:
            raise ValueError(f"a folder has no revisions; got {model} and {revision!r}")
        logger.info(f"the folder {folder.resolve()}; nothing is compared with the Hub")
    else:
        info, folder = _download(model, revision)
    checks += _check_card(folder, info and info.id, trust_remote_code)
    found = staged_files(folder)  # after a wrong folder, which may be large, was refused
    if info:
        checks.insert(0, check_files(info.siblings, found, folder))
    results, environment = _recorded(folder), None
    if sample and seed is None:
        seed = secrets.randbelow(2**31)
    if not results:
        checks.append(Check("results", OPEN, "there is no eval_results.json with results"))
    else:
        answer = _reevaluate(
            folder=str(folder),
            results=results,
            data=list(data),
            sample=sample,
            seed=seed,
            trust_remote_code=trust_remote_code,
            **measuring,
        )
        environment = answer["environment"]
        checks += check_loading(answer["loaded"], trust_remote_code)
        checks += check_results(results, answer["results"])
    return Verification(
        model=model,
        commit=info and info.sha,
        folder=str(folder),
        files={name: file.sha256 for name, file in found.items()},
        sample=sample,
        seed=seed if sample else None,
        environment=environment,
        checks=tuple(checks),
    )


def _download(repo_id, revision):
    """The Hub's list of files of one commit, and the folder with these files."""
    check_repo_id(repo_id)
    api = open_hub(anonymous=True)

    def explain(error):
        return _explain(error, repo_id, revision, api.endpoint)

    info = persist(lambda: api.model_info(repo_id, revision=revision, files_metadata=True), explain)
    size = megabytes(sum(file.size or 0 for file in info.siblings))
    logger.info(f"{repo_id} at commit {info.sha}: {len(info.siblings)} files, {size}")
    return info, Path(persist(lambda: api.snapshot_download(repo_id, revision=info.sha), explain))


def _explain(error, repo_id, revision, endpoint):
    if isinstance(error, OfflineModeIsEnabled):
        return PushError(
            "network", "HF_HUB_OFFLINE=1 forbids all contact; unset it, or give a folder"
        )
    if isinstance(error, RevisionNotFoundError):
        return PushError(
            "name", f"revision must be a commit, tag or branch of {repo_id}; got {revision!r}"
        )
    if isinstance(error, GatedRepoError):
        return PushError(
            "gated", f"{repo_id} is gated: accept its terms on {endpoint}/{repo_id} and log in"
        )
    if isinstance(error, RepositoryNotFoundError):
        return PushError(
            "name",
            f"MODEL must be a folder, or a model on the Hub that this account may read; got "
            f"{repo_id!r}. For a private one run `hf auth login`, or set HF_TOKEN.",
        )
    return PushError("network", f"{endpoint} did not give {repo_id}; {cause(error)}")


def _check_card(folder, repo_id, trust_remote_code):
    """Whether the files agree with each other, and the card with them."""
    try:
        evidence = read_evidence(folder)
    except ValueError as error:
        family = _family(folder)
        if family in FAMILIES:
            return [Check("evidence", FAILS, str(error))]
        if not trust_remote_code:
            raise ValueError(
                f"model_type must be one of {', '.join(FAMILIES)} for this package's code; got "
                f"{family!r}. To run the repository's own code add --trust-remote-code."
            ) from error
        return [Check("evidence", OPEN, f"what a {family!r} must have is not known here")]
    detail = f"the files agree; SHA-256 of the weights {evidence.weights.sha256}"
    checks = [Check("evidence", HOLDS, detail)]
    card = folder / "README.md"
    if not card.is_file():
        return [*checks, Check("card", OPEN, "there is no README.md")]
    text = card.read_text(encoding="utf-8", errors="replace")
    return [*checks, check_metadata(evidence, text), check_text(evidence, text, repo_id)]


def _family(folder):
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        return None


def _recorded(folder):
    path = folder / "eval_results.json"
    if not path.is_file():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        for result in results:
            result["dataset"]["split"], result["metrics"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be as `convzoo evaluate` writes it; got {error!r}"
        ) from error
    return results


def _reevaluate(**request):
    """The answer of a fresh process of `convzoo.evaluation.remeasuring`."""
    root = Path(__file__).parent.parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as scratch:
        answer = Path(scratch) / "answer.json"
        # -P: what lies in the current folder is not imported. Code of repositories stays here.
        done = subprocess.run(
            [sys.executable, "-P", "-m", "convzoo.evaluation.remeasuring", str(answer)],
            input=json.dumps(request),
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(paths), "HF_MODULES_CACHE": f"{scratch}/modules"},
            text=True,
        )
        if not answer.is_file():
            raise OSError(
                f"the process that evaluates ended with status {done.returncode} and no answer; "
                "what it said is above"
            )
        return json.loads(answer.read_text(encoding="utf-8"))


def report(verification: Verification) -> str:
    """A verification as a table for people, with one line for each check."""
    lines, about = [], ""
    for check in verification.checks:
        if check.about != about:
            about = check.about
            lines.append(f"\n{about}")
        lines.append(f"{check.name:<14}  {check.verdict:<13}  {check.detail}")
    facts = [check.facts for check in verification.checks if "interval" in check.facts]
    accuracies = [each for each in facts if each["metric"] != "loss"]
    if accuracies:
        half = max(
            50 * (each["interval"][1] - each["interval"][0]) + 100 * each["tolerance"]
            for each in accuracies
        )
        lines.append(
            f"\nSeed {verification.seed}. A card that is right is called wrong by at most 1 in 100 "
            f"such samples. An accuracy that is off by {half:.1f} points is found out by about "
            "half of them; one off by twice as much, by nearly all."
        )
    return "\n".join([*lines, "", CLOSING[verification.verdict]])


def write_result(verification: Verification, path: str | Path) -> None:
    """Write a verification as JSON, whole or not at all."""
    path = Path(path)
    content = {
        "verdict": verification.verdict,
        **asdict(verification),
        "command": f"python -m hub_cards {shlex.join(sys.argv[1:])}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)
