"""Verify a published model: its files, its card, and the numbers on it by measuring them again.

The measurement runs in a process of its own (`convzoo.evaluation.remeasuring`), with this
package's code unless the user lets the repository's run.
"""

import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from huggingface_hub import ModelInfo
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_cards.card.formatting import dataset_name
from hub_cards.evidence.folder import Evidence, read_evidence
from hub_cards.evidence.other_models import DESCRIPTION, is_export, read_export
from hub_cards.files import Record
from hub_cards.hub.access import check_repo_id, open_hub
from hub_cards.hub.file_hashes import hash_files, megabytes
from hub_cards.hub.push_errors import PushError, cause, persist
from hub_cards.verify.checks import (
    FAILS,
    HOLDS,
    OPEN,
    Check,
    check_files,
    check_loading,
    check_metadata,
    check_text,
)
from hub_cards.verify.result_checks import check_results

logger = logging.getLogger(__name__)

OURS = "ConvZooImageProcessor"  # as the files of every model of the zoo say
RE_MEASURED, RE_DERIVED, TRUSTED = "re-measured", "re-derived from predictions", "trusted"
EXIT_CODES = {HOLDS: 0, FAILS: 3, OPEN: 4}  # 1 is an error, and 2 a wrong command line


@dataclass(frozen=True)
class Verification:
    """Outcome of a verification.

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
    environment: Record | None
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """FAILS if a check does, else OPEN if one is, else HOLDS."""
        verdicts = {check.verdict for check in self.checks}
        return next(each for each in (FAILS, OPEN, HOLDS) if each in verdicts)

    @property
    def basis(self) -> dict[str, list[str]]:
        """By what each result was checked: see RE_MEASURED and the next two."""
        found: dict[str, str] = {}
        for check in self.checks:
            if not check.about or found.get(check.about) == RE_MEASURED:
                continue
            measured = check.name == "images" and check.verdict == HOLDS
            derived = check.name == "predictions" or found.get(check.about) == RE_DERIVED
            found[check.about] = RE_MEASURED if measured else RE_DERIVED if derived else TRUSTED
        return {
            basis: [about for about, by in found.items() if by == basis]
            for basis in (RE_MEASURED, RE_DERIVED, TRUSTED)
        }


@dataclass(frozen=True)
class Measuring:
    """Options for repeating the evaluations; see `convzoo.evaluation.remeasuring.Request`.

    Attributes:
        data: folders and Hub dataset ids with the images of the evaluations.
        split: their split there; the recorded one if "".
        image_column: column of images; the only one if "".
        label_column: column of class numbers; the only one if "".
        root: folder that the paths in lists of images are relative to; that of the list if "".
        sample: images to draw at random for each evaluation; all if 0.
        seed: of the drawing; a new one if None, so that nobody can prepare for it.
        real_labels: file of reassessed labels, for results that were counted by it, too; or "".
        trust_remote_code: run the repository's own code. Its process is no sandbox, and such code
            could also make up the numbers.
        batch_size: images per step.
        num_workers: decoding processes.
    """

    data: Sequence[str] = ()
    split: str = ""
    image_column: str = ""
    label_column: str = ""
    root: str = ""
    sample: int = 0
    seed: int | None = None
    real_labels: str = ""
    trust_remote_code: bool = False
    batch_size: int = 64
    num_workers: int = 2


def verify(model: str, measuring: Measuring, *, revision: str | None = None) -> Verification:
    """Check a published model, as far as what is given allows.

    Args:
        model: Hub id, or a model folder.
        measuring: how to repeat its evaluations.
        revision: commit, tag or branch on the Hub; the main branch if None.

    Raises:
        ValueError: if there is no such model or revision, or nothing to verify in it.
        FileNotFoundError: if files of a model folder are missing.
        PushError: if the Hub does not give the files.
    """
    info, folder = None, Path(model)
    if folder.is_dir():
        if revision:
            raise ValueError(f"a folder has no revisions; got {model} and {revision!r}")
        logger.info(f"the folder {folder.resolve()}; nothing is compared with the Hub")
    else:
        info, folder = _download(model, revision)
    repo_id = info.id if info else None
    checks = _check_card(folder, repo_id)
    found = hash_files(folder)  # after a wrong folder, which may be large, was refused
    if info:
        checks.insert(0, check_files(info.siblings or [], found, folder=folder))
    if measuring.sample and measuring.seed is None:
        measuring = replace(measuring, seed=secrets.randbelow(2**31))
    measured, environment = _measure(folder, measuring)
    return Verification(
        model=model,
        commit=info.sha if info else None,
        folder=str(folder),
        files={name: file.sha256 for name, file in found.items()},
        sample=measuring.sample,
        seed=measuring.seed if measuring.sample else None,
        environment=environment,
        checks=(*checks, *measured),
    )


def _measure(folder: Path, measuring: Measuring) -> tuple[list[Check], Record | None]:
    """Repeat the evaluations; give the checks, and where they were made."""
    results = _recorded(folder)
    if not results:
        return [Check("results", OPEN, "there is no eval_results.json with results")], None
    answer = _reevaluate({"folder": str(folder), "results": results, **asdict(measuring)})
    if answer["loaded"]["unknown_family"] and not measuring.trust_remote_code:
        raise ValueError(
            f"{answer['loaded']['error']}. To run the repository's own code add "
            "--trust-remote-code."
        )
    return [
        *check_loading(answer["loaded"], trusted=measuring.trust_remote_code),
        *check_results(results, answer["results"], labels=_labels(folder)),
    ], answer["environment"]


def _download(repo_id: str, revision: str | None) -> tuple[ModelInfo, Path]:
    """Fetch the Hub's list of files of one commit, and the folder with these files."""
    check_repo_id(repo_id)
    api = open_hub(anonymous=True)

    def explain(error: Exception) -> PushError:
        return _explain(error, repo_id, revision=revision, endpoint=api.endpoint)

    info = persist(lambda: api.model_info(repo_id, revision=revision, files_metadata=True), explain)
    siblings = info.siblings or []
    size = megabytes(sum(file.size or 0 for file in siblings))
    logger.info(f"{repo_id} at commit {info.sha}: {len(siblings)} files, {size}")
    return info, Path(persist(lambda: api.snapshot_download(repo_id, revision=info.sha), explain))


def _explain(error: Exception, repo_id: str, *, revision: str | None, endpoint: str) -> PushError:
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


def _check_card(folder: Path, repo_id: str | None) -> list[Check]:
    """Check whether the files agree with each other, and the card with them."""
    if is_export(folder):
        return _check_export(folder)
    try:
        evidence = read_evidence(folder)
    except (FileNotFoundError, ValueError) as error:
        config = _read_settings(folder, "config.json")
        processor, family = (
            _read_settings(folder, "preprocessor_config.json"),
            config.get("model_type"),
        )
        if isinstance(error, FileNotFoundError) and ("auto_map" in config or not family):
            raise
        if processor.get("image_processor_type") == OURS:
            return [Check("evidence", FAILS, str(error))]
        return [Check("evidence", OPEN, f"what a {family!r} must have is not known here")]
    detail = f"the files agree; SHA-256 of the weights {evidence.weights.sha256}"
    checks = [Check("evidence", HOLDS, detail), *_check_baselines(evidence)]
    card = folder / "README.md"
    if not card.is_file():
        return [*checks, Check("card", OPEN, "there is no README.md")]
    text = card.read_text(encoding="utf-8", errors="replace")
    return [*checks, check_metadata(evidence, text), check_text(evidence, text, repo_id=repo_id)]


def _check_export(folder: Path) -> list[Check]:
    """Check whether the files of an export are of each other."""
    try:
        export = read_export(folder)
    except (FileNotFoundError, ValueError) as error:
        return [Check("evidence", FAILS, str(error))]
    detail = f"{export.description['file']} is the file that {DESCRIPTION} and results are of"
    return [
        Check("evidence", HOLDS, f"{detail}; SHA-256 {export.sha256}"),
        Check("card", OPEN, "the card of an export has no results to check"),
    ]


def _check_baselines(evidence: Evidence) -> list[Check]:
    """Say of each baseline that it is believed."""
    return [
        Check(
            "baseline",
            OPEN,
            f"trusted: weights {each['model']['sha256'][:12]}... are not in this repository",
            f"{each['name']} on {dataset_name(each['dataset'])} [{each['dataset']['split']}]",
        )
        for each in evidence.baselines
    ]


def _read_settings(folder: Path, name: str) -> Record:
    try:
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _labels(folder: Path) -> list[str]:
    """Class names in the order of the logits; [] where none can be read."""
    if is_export(folder):
        classes = _read_settings(folder, DESCRIPTION).get("classes")
        return classes if isinstance(classes, list) else []
    id2label = _read_settings(folder, "config.json").get("id2label")
    try:
        return [id2label[key] for key in sorted(id2label, key=int)] if id2label else []
    except (AttributeError, TypeError, ValueError):
        return []


def _recorded(folder: Path) -> list[Record]:
    path = folder / "eval_results.json"
    if not path.is_file():
        return []
    try:
        results: list[Record] = json.loads(path.read_text(encoding="utf-8"))["results"]
        for result in results:
            result["dataset"]["split"], result["metrics"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be as `convzoo evaluate` writes it; got {error!r}"
        ) from error
    return results


def _reevaluate(request: Record) -> Record:
    """Get the answer of a fresh process of `convzoo.evaluation.remeasuring`."""
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
        content: Record = json.loads(answer.read_text(encoding="utf-8"))
        return content
