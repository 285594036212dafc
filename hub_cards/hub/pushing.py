"""Push a model folder or a Space to the Hub: complete and in one commit, or not at all.

The folder is copied aside, its card is rendered there, and the copy is compared with the Hub's list
of files. What differs goes into one commit whose parent is the commit that was compared. After a
transient failure everything from the comparison on is done again: a commit whose answer was lost
is then found on the Hub and not made twice. Nothing is ever deleted on the Hub.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    ModelInfo,
    SpaceInfo,
    get_session,
    hf_hub_url,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazy names
    build_hf_headers,
    hf_raise_for_status,
)

from hub_cards.card.rendering import is_generated
from hub_cards.card.validation import is_default_space_card
from hub_cards.hub.access import Account, check_repo_id, log_in, open_hub
from hub_cards.hub.file_hashes import hash_files, megabytes
from hub_cards.hub.leftovers import contradiction
from hub_cards.hub.push_errors import PushError, failure, persist
from hub_cards.hub.space_staging import written_files
from hub_cards.hub.staging import stage_model

logger = logging.getLogger(__name__)

OPEN = ("open", "draft")  # states of a pull request
Kind = Literal["model", "space"]
RepoInfo = ModelInfo | SpaceInfo


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Attributes:
        private: create the repository as a private one; one that exists must be private then.
        revision: a branch, created from the main one if it does not exist.
        create_pr: open a pull request instead of committing to the branch.
        dry_run: only log what would happen; a token is not needed then.
        force: replace what was edited by hand on the Hub (a pull request may propose that
            without), and make a model beside a dataset or Space of the same name.
        with_predictions: publish the predictions files of the evaluations, too.
    """

    private: bool = False
    revision: str = "main"
    create_pr: bool = False
    dry_run: bool = False
    force: bool = False
    with_predictions: bool = False


DEFAULTS = PushOptions()


@dataclass(frozen=True)
class PushResult:
    """Outcome of a push.

    Attributes:
        url: the repository's page.
        files: "new", "changed" or "unchanged" for each file, as it was before.
        left_out: files and folders that are no part of it and stayed at home.
        oid: the commit, or None if none was made.
        commit_url: its page, or None.
        pull_request_url: page of the pull request that proposes these files, or None.
    """

    url: str
    files: dict[str, str]
    left_out: tuple[str, ...] = ()
    oid: str | None = None
    commit_url: str | None = None
    pull_request_url: str | None = None


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    options: PushOptions = DEFAULTS,
) -> PushResult:
    """Make a model repository on the Hub hold a model folder, with one commit at most.

    The token is the one that huggingface_hub finds (HF_TOKEN or `hf auth login`). What happens is
    logged to "hub_cards.hub.pushing".

    Args:
        folder: a finished model folder; nothing is written into it. Its README.md is rendered for
            repo_id, unless it was edited by hand: then it is pushed as it is, if it is a good card.
        repo_id: where to, as user/name; created if it does not exist.
        options: how.

    Raises:
        PushError: if the Hub could not be made to hold the folder; and nothing else.
    """
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as stage:
        left_out = stage_model(
            Path(folder), Path(stage), repo_id, with_predictions=options.with_predictions
        )
        return push_stage("model", Path(stage), repo_id=repo_id, left_out=left_out, options=options)


def push_stage(
    kind: Kind,
    stage: Path,
    *,
    repo_id: str,
    left_out: Sequence[str] = (),
    options: PushOptions,
) -> PushResult:
    """Push a staged folder, all of whose files go to the Hub, and again after transient failures.

    Args:
        kind: "model" or "space", which is one of Gradio.
        stage: the folder; its README.md is the card.
        repo_id: where to, as user/name.
        left_out: for the plan: what was not staged.
        options: how.

    Raises:
        PushError: see `push_folder`.
    """
    push = _Push(kind, stage, repo_id=repo_id, left_out=left_out, options=options)
    return persist(push.attempt, push.explain)


class _Push:
    """One push; see `push_stage`."""

    def __init__(
        self,
        kind: Kind,
        stage: Path,
        *,
        repo_id: str,
        left_out: Sequence[str],
        options: PushOptions,
    ) -> None:
        self.kind, self.stage, self.repo_id = kind, stage, repo_id
        self.left_out, self.options = tuple(left_out), options
        self.files = hash_files(stage)
        self.api = open_hub(anonymous=options.dry_run)
        self.account: Account | None = None
        self.plan: dict[str, str] = {}  # of the first look
        self.sent: str | None = None  # parent of the commit that was sent last
        self.commit: CommitInfo | None = None

    def explain(self, error: Exception) -> PushError:
        """Say what a person can do about an error that ended the push."""
        return failure(
            error,
            self.repo_id,
            revision=self.options.revision,
            endpoint=self.api.endpoint,
            user=self.account.name if self.account else "",
        )

    def attempt(self) -> PushResult:
        """Compare, and push what differs; start again from there after a change of the Hub."""
        if self.account is None:
            self.account = self._log_in()
        info, base_missing = self._look()
        if self.options.private and info is not None and not info.private:
            raise PushError(
                "taken",
                f"{self.repo_id} exists and is public; --private cannot change that. Change its "
                "visibility on its settings page, or choose another name.",
            )
        states = self._compare(info)
        changes = [path for path, state in states.items() if state != "unchanged"]
        proposal = self._proposal() if self.options.create_pr and changes else None
        if not self.plan:
            self.plan = states
            self._show(info, base_missing, proposal=proposal)
        if proposal:
            return self._result(pull_request_url=proposal)
        if not changes and not base_missing:
            return self._result(info=info)
        if self.commit:
            raise PushError(
                "refused",
                f"{self.commit.commit_url} was committed, but the Hub still has not, or has no "
                f"longer, these files: {', '.join(changes)}. Is there a .gitignore, or another "
                "push under way?",
            )
        changed = [path for path in changes if states[path] == "changed"]
        if info and ("README.md" in changed or (changed and self.kind == "space")):
            self._check_card(info, changed)
        if info and self.kind == "model":
            self._check_leftovers(info)
        if self.options.dry_run:
            return self._result()
        if info is None or base_missing:
            self._create(info)
        else:
            self._send(changes, parent=info.sha)
        return self.attempt()  # after a commit, it finds all files there

    def _send(self, changes: Sequence[str], parent: str | None) -> None:
        self.sent = parent
        self.commit = self.api.create_commit(
            self.repo_id,
            repo_type=self.kind,
            operations=[CommitOperationAdd(path, self.stage / path) for path in changes],
            commit_message=f"Upload {self.kind} with hub_cards",
            revision=self.options.revision,
            create_pr=self.options.create_pr,
            parent_commit=parent,
        )

    def _log_in(self) -> Account:
        """Find out whose token it is, and refuse what cannot work before anything is sent."""
        if not self.api.token:
            logger.info("no token: the Hub is seen as anybody sees it")
            return Account("", ())
        account = log_in(self.api)
        namespace = self.repo_id.split("/")[0]
        if not (self.options.create_pr or account.owns(namespace)):
            raise PushError(
                "permission",
                f"{account.name} may not push to {namespace}; the namespace must be one of "
                f"{', '.join(account.namespaces)}. Elsewhere a pull request can be opened: "
                "--create-pr.",
            )
        return account

    def _look(self) -> tuple[RepoInfo | None, bool]:
        """Newest commit and files of the repository, if there is one; whether the branch is not."""
        try:
            return self._info(self.options.revision), False
        except RevisionNotFoundError:
            if self.options.create_pr:
                raise
            return self._info(), True
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            if self.options.create_pr:
                raise PushError(
                    "name",
                    f"{self.repo_id} must exist for a pull request; there is no such "
                    f"{self.kind}, or it is private.",
                ) from None
            return None, self.options.revision != "main"

    def _info(self, revision: str | None = None) -> RepoInfo:
        info = self.api.repo_info(
            self.repo_id, repo_type=self.kind, revision=revision, files_metadata=True
        )
        assert isinstance(info, ModelInfo | SpaceInfo)
        return info

    def _compare(self, info: RepoInfo | None) -> dict[str, str]:
        present = {file.rfilename: file for file in info.siblings or []} if info else {}
        states = {}
        for path, file in self.files.items():
            old = present.get(path)
            if old is None:
                states[path] = "new"
            elif old.lfs:
                states[path] = "unchanged" if old.lfs.sha256 == file.sha256 else "changed"
            else:
                states[path] = "unchanged" if old.blob_id == file.git_oid else "changed"
        return states

    def _proposal(self) -> str | None:
        """Page of an open pull request of ours that has all files, or None."""
        if self.commit:
            found = [(self.commit.pr_revision, self.commit.pr_url)]
        else:
            ours = self.api.get_repo_discussions(
                self.repo_id,
                repo_type=self.kind,
                author=self.account.name if self.account else None,
                discussion_type="pull_request",
            )
            found = [(one.git_reference, one.url) for one in ours if one.status in OPEN]
        for revision, url in found:
            if set(self._compare(self._info(revision)).values()) == {"unchanged"}:
                return url
        return None

    def _show(self, info: RepoInfo | None, base_missing: bool, *, proposal: str | None) -> None:
        visible = "private" if (info.private if info else self.options.private) else "public"
        state = "exists" if info else "new"
        logger.info(
            f"{self.repo_id}: {visible} {self.kind}, {state}, branch {self.options.revision}"
        )
        if base_missing:
            logger.info(f"  new        branch {self.options.revision}")
        for path, state in sorted(self.plan.items(), key=lambda item: (item[1], item[0])):
            logger.info(f"  {state:<9}  {path}  {megabytes(self.files[path].size)}")
        others = [file.rfilename for file in info.siblings or []] if info else []
        others = [path for path in others if path not in self.files and path != ".gitattributes"]
        for title, names in (("only on the Hub, stay", others), ("left out", self.left_out)):
            if names:
                logger.info(f"  {title}: {', '.join(names)}")
        changes = [path for path, state in self.plan.items() if state != "unchanged"]
        size = megabytes(sum(self.files[path].size for path in changes))
        logger.info(f"  {len(changes)} of {len(self.files)} files differ, {size}")
        if proposal:
            logger.info(f"  all of them are in the open pull request {proposal}")

    def _check_card(self, info: RepoInfo, changed: Sequence[str]) -> None:
        """Refuse to replace a card, or a Space, that a person has edited on the Hub."""
        oids = {file.rfilename: file.blob_id for file in info.siblings or []}
        card = self._read(info, "README.md").decode(errors="replace") if "README.md" in oids else ""
        written = written_files(card) if is_generated(card) else {}
        edited = any(oids[path] != written.get(path, oids[path]) for path in changed)
        untouched = is_default_space_card(card) and changed == ["README.md"]
        if untouched or (is_generated(card) and not edited):
            return
        what, files = f"{self.repo_id} was edited by hand on the Hub", ", ".join(changed)
        if not self.options.force and not self.options.create_pr:
            model = self.kind == "model"
            keep = "Copy its README.md into the folder" if model else "Choose another name"
            raise PushError(
                "edited",
                f"{what}; nothing was pushed. {keep}, or let {files} be replaced with --force.",
            )
        logger.info(f"{what}; {files}: replaced")

    def _check_leftovers(self, info: RepoInfo) -> None:
        """Refuse a push after which the repository would contradict itself."""
        names = [file.rfilename for file in info.siblings or []]
        others = [name for name in names if name not in self.files]
        said = contradiction(
            self.stage, self.repo_id, others, read=lambda name: self._read(info, name)
        )
        if said:
            raise PushError(
                "folder",
                f"{self.repo_id} has files that the folder lacks and that would contradict it: "
                f"{said} Measure these weights, too, so that the push replaces such files; or "
                f"delete them on the Hub, under Files; or choose another name.",
            )

    def _read(self, info: RepoInfo, path: str) -> bytes:
        address = hf_hub_url(
            self.repo_id,
            path,
            repo_type=self.kind,
            revision=info.sha,
            endpoint=self.api.endpoint,
        )
        answer = get_session().get(address, headers=build_hf_headers(token=self.api.token))
        hf_raise_for_status(answer)
        return bytes(answer.content)

    def _create(self, info: RepoInfo | None) -> None:
        """Create the repository or, where there is one, the branch."""
        if info:
            self.api.create_branch(
                self.repo_id,
                repo_type=self.kind,
                branch=self.options.revision,
                revision=info.sha,
                exist_ok=True,
            )
            return
        for other in ("dataset", "space") if self.kind == "model" else ():
            if not self.options.force and self.api.repo_exists(self.repo_id, repo_type=other):
                raise PushError(
                    "taken",
                    f"{self.repo_id} exists as a {other}. Choose another name, or make a "
                    "model beside it with --force.",
                )
        try:
            # Not private is left to the organization's settings.
            sdk = "gradio" if self.kind == "space" else None
            private = self.options.private or None
            self.api.create_repo(self.repo_id, repo_type=self.kind, private=private, space_sdk=sdk)
        except HfHubHTTPError as error:
            # Perhaps this push has created it before, and the answer was lost.
            if error.response.status_code != 409 or self._look()[0] is None:
                raise

    def _result(
        self, info: RepoInfo | None = None, pull_request_url: str | None = None
    ) -> PushResult:
        prefix = "spaces/" if self.kind == "space" else ""
        page = f"{self.api.endpoint}/{prefix}{self.repo_id}"
        oid: str | None = None
        commit_url: str | None = None
        if self.commit:
            oid, commit_url = self.commit.oid, self.commit.commit_url
        elif self.sent and info and info.sha != self.sent:  # the answer to our commit was lost
            oid, commit_url = info.sha, f"{page}/commit/{info.sha}"
        return PushResult(
            url=page,
            files=self.plan,
            left_out=self.left_out,
            oid=oid,
            commit_url=commit_url,
            pull_request_url=pull_request_url,
        )
