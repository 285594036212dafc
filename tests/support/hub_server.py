"""A small Hugging Face Hub on loopback, for tests with the real clients.

It knows the calls by which huggingface_hub, transformers, datasets and evaluate create, fill, list
and read repositories. Large files go by Git LFS and are downloaded, as on the real Hub, from
another host name (`localhost` instead of `127.0.0.1`) that refuses tokens. Repositories live under
a folder: one JSON file each, and one content file per SHA-256. Every request is in a journal, and
requests can be made to fail.

There is no paging, no merging of pull requests and no running Space. Xet takes uploads (see
tests/support/xet_store.py) and offers no downloads; clients use it where `run` is told so. Only
that and the front matter of cards need more than the standard library. To try things by hand:

    python tests/support/hub_server.py --port 8765 FOLDER
"""

import argparse
import base64
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

BLOCK = 1 << 18  # bytes sent at once
MAX_REGULAR_BYTES = 10_000_000  # larger files must go by LFS
LFS_SUFFIXES = "7z arrow bin bz2 ckpt gz h5 jpeg jpg msgpack npy npz onnx parquet pickle pkl png pt"
LFS_SUFFIXES += " pth safetensors tar tgz webp xz zip zst"
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES.split()
)
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SPACE_README = """---
title: {name}
emoji: \U0001f680
colorFrom: red
colorTo: gray
sdk: {sdk}
sdk_version: 5.0.0
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""

# Runs at the start of every client: names of other hosts are noted in $OUTSIDE_LOG and refused.
GUARD = """
import os, sys

def _only_loopback(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["OUTSIDE_LOG"], "a") as log:
            log.write(host + "\\n")
        raise OSError(f"tests may contact loopback only; got {host}")

sys.addaudithook(_only_loopback)
"""


@dataclass
class Request:
    """One line of the journal.

    Attributes:
        method: GET, HEAD, POST, PUT, PATCH or DELETE.
        path: address without the host, with the query.
        host: name the client used for this server.
        range: Range header, or "".
        user: whose token came with it, or "".
        status: of the answer.
        sent: bytes of the answer's body.
    """

    method: str
    path: str
    host: str
    range: str
    user: str = ""
    status: int = 0
    sent: int = 0

    def matches(self, pattern: str) -> bool:
        """Whether a regular expression is found in "METHOD /path"."""
        return re.search(pattern, f"{self.method} {self.path}") is not None


@dataclass
class Fault:
    """What is to go wrong with requests that match."""

    pattern: str
    status: int
    times: float
    drop_after: int | None
    take: int | None
    skip: int
    retry_after: int | None


class HubError(Exception):
    """An answer other than success."""

    def __init__(self, status, message, code="", **headers):
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code:
            self.headers["X-Error-Code"] = code


class Repository:
    """Branches, tags and commits of one repository; every change is saved at once."""

    def __init__(self, store: Path, kind: str, name: str, **settings):
        self.kind = kind
        self.id = name
        self.objects = store / "objects"
        self.path = store / kind / f"{name}.json"
        if self.path.is_file():
            self.state = json.loads(self.path.read_text())
        else:
            self.state = {"settings": settings, "refs": {}, "commits": {}}

    @property
    def page(self) -> str:
        """Address of its page without the host."""
        return f"/{self.id}" if self.kind == "models" else f"/{self.kind}/{self.id}"

    @property
    def settings(self) -> dict:
        """`private`, `gated` and `granted`."""
        return self.state["settings"]

    def resolve(self, revision: str) -> str:
        """Commit of a branch, a tag or a commit's name."""
        refs = self.state["refs"]
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        commit = next((refs[name] for name in names if name in refs), revision)
        if commit not in self.state["commits"]:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def files(self, revision: str) -> dict[str, dict]:
        """{path: {oid, sha256, size, lfs}} of a revision."""
        return self.state["commits"][self.resolve(revision)]["files"]

    def commit(self, branch: str, changes: dict, deletions=(), parent="", user="", title="") -> str:
        """Put a commit on a branch or a full ref: all of the changes, or an error and none."""
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        head = self.state["refs"].get(ref)
        if head is None and self.state["commits"]:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if parent and not (head or "").startswith(parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.files(head)) if head else {}
        for path in deletions:
            folder = path.rstrip("/") + "/"
            doomed = [name for name in files if name == path or name.startswith(folder)]
            if not doomed:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in doomed:
                del files[name]
        commit = {
            "parent": head,
            "title": title,
            "user": user,
            "date": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "files": dict(sorted((files | changes).items())),
        }
        oid = hashlib.sha1(json.dumps([self.kind, self.id, commit]).encode()).hexdigest()
        self.state["commits"][oid] = commit
        self.state["refs"][ref] = oid
        self.save()
        return oid

    def propose(self, branch: str, changes: dict, deletions=(), parent="", user="", title=""):
        """Put a commit into a new pull request; returns its number and the commit."""
        if f"refs/heads/{branch}" not in self.state["refs"]:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        requests = self.state.setdefault("pull_requests", [])
        ref = f"refs/pr/{len(requests) + 1}"
        self.state["refs"][ref] = self.state["refs"][f"refs/heads/{branch}"]
        try:
            oid = self.commit(ref, changes, deletions, parent, user, title)
        except HubError:
            del self.state["refs"][ref]
            raise
        date = self.state["commits"][oid]["date"]
        requests.append({"title": title, "user": user, "date": date, "status": "open"})
        self.save()
        return len(requests), oid

    def history(self, revision: str) -> list[str]:
        """Commits of a revision, the newest first."""
        commits, oid = [], self.resolve(revision)
        while oid:
            commits.append(oid)
            oid = self.state["commits"][oid]["parent"]
        return commits

    def save(self):
        """Write the JSON file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.state))
        temporary.replace(self.path)

    def wants_lfs(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a file is to go by LFS: by its name, its size, or because it is no text."""
        attributes, commits = GITATTRIBUTES, self.state["commits"]
        entry = commits and self.files("main").get(".gitattributes")
        if entry:
            attributes = (self.objects / entry["sha256"]).read_text()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        by_name = any(
            fnmatch.fnmatch(name, pattern)
            for pattern in patterns
            for name in (path, path.rsplit("/", 1)[-1])
        )
        return by_name or size > MAX_REGULAR_BYTES or b"\0" in sample

    def card(self, files: dict) -> dict:
        """Front matter of the README among `files`; {} without one that can be read."""
        if "README.md" not in files:
            return {}
        text = (self.objects / files["README.md"]["sha256"]).read_text(encoding="utf-8")
        try:
            return front_matter(text) or {}
        except ValueError:
            return {}


class HubServer:
    """The server; a context manager.

    Args:
        root: folder of the repositories; those of an earlier server there are served again.
        tokens: user of each token.
        organizations: members of each organization.
        read_only: tokens that may not write.
        port: 0 for any free one.
    """

    def __init__(
        self,
        root: Path,
        tokens: Mapping[str, str],
        organizations: Mapping[str, Collection[str]] | None = None,
        read_only: Collection[str] = (),
        port: int = 0,
    ):
        self.root = Path(root)
        self.tokens = dict(tokens)
        self.organizations = dict(organizations or {})
        self.read_only = set(read_only)
        self.journal: list[Request] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict] = {}  # by slug, until the server ends
        self.lock = threading.RLock()
        self.signature = secrets.token_hex(8)  # opens addresses of the storage host
        self._faults: list[Fault] = []
        self._connections: set[socket.socket] = set()
        self._warm: dict = {}  # by home
        (self.root / "objects").mkdir(parents=True, exist_ok=True)
        for path in self.root.glob("*/*/*.json"):
            kind, *names = path.relative_to(self.root).with_suffix("").parts
            self.repositories[kind, "/".join(names)] = Repository(self.root, kind, "/".join(names))
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._http.hub = self
        self._http.daemon_threads = False  # so that closing waits for the answers under way
        port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.storage = f"http://localhost:{port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *exception):
        for warm in self._warm.values():
            warm.close()
        self._http.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    # Repositories without HTTP ---------------------------------------------------------------

    def add_repo(
        self,
        kind: str,
        repo_id: str,
        folder: Path | None = None,
        *,
        private: bool = False,
        gated: bool = False,
        granted: Collection[str] = (),
        link: bool = False,
        readme: str = "",
    ) -> str:
        """Create a repository, with the files of a folder.

        Args:
            kind: "models", "datasets" or "spaces".
            repo_id: namespace/name.
            folder: what to put in; files named .git* stay out.
            private: only members of the namespace and `granted` users see it.
            gated: everybody sees it, but only those users read other files than its README.
            granted: users with access.
            link: serve LFS files from where they are, under made-up hashes: data of many gigabytes
                can be simulated by small, sparse or repeated files.
            readme: text of a README.md that the first commit has.

        Returns:
            The commit.
        """
        with self.lock:
            settings = {"private": private, "gated": "manual" if gated else False}
            repo = Repository(self.root, kind, repo_id, **settings, granted=list(granted))
            initial = {".gitattributes": self._store(GITATTRIBUTES.encode())}
            if readme:
                initial["README.md"] = self._store(readme.encode())
            repo.commit("main", initial, title="initial commit")
            self.repositories[kind, repo_id] = repo
        return self.add_commit(kind, repo_id, folder, link=link) if folder else repo.resolve("main")

    def add_commit(self, kind: str, repo_id: str, folder: Path, *, link: bool = False) -> str:
        """Put the files of a folder into a repository; returns the commit."""
        repo = self.repositories[kind, repo_id]
        changes = {}
        for path in sorted(Path(folder).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not name.startswith(".git"):
                with path.open("rb") as handle:
                    lfs = repo.wants_lfs(name, path.stat().st_size, handle.read(512))
                content = path if lfs else path.read_bytes()
                made_up = f"{kind} {repo_id} {name}" if link else ""
                changes[name] = self._store(content, made_up)
        with self.lock:
            return repo.commit("main", changes, title=f"Add {Path(folder).name}")

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, Path]:
        """Where the content of each file of a revision lies."""
        files = self.repositories[kind, repo_id].files(revision)
        return {path: self.root / "objects" / entry["sha256"] for path, entry in files.items()}

    def commits(self, kind: str, repo_id: str, revision: str = "main") -> list[str]:
        """Commits of a revision, the newest first."""
        return self.repositories[kind, repo_id].history(revision)

    def _store(self, content, made_up=""):
        """Keep bytes, or a file that goes by LFS, and make its entry in a commit.

        With a text to make its hash from, the file is served from where it is.
        """
        objects = self.root / "objects"
        part = objects / secrets.token_hex(8)
        if isinstance(content, bytes):
            sha256, size = hashlib.sha256(content).hexdigest(), len(content)
            part.write_bytes(content)
            entry = _entry(sha256, size, content)
        else:
            if made_up:
                sha256 = hashlib.sha256(made_up.encode()).hexdigest()
                part.symlink_to(content.resolve())
            else:
                with content.open("rb") as handle:
                    sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
                shutil.copyfile(content, part)
            entry = _entry(sha256, content.stat().st_size)
        part.replace(objects / sha256)
        return entry

    # Journal and faults ----------------------------------------------------------------------

    def requests(self, pattern: str = "") -> list[Request]:
        """Entries of the journal whose "METHOD /path" matches a regular expression."""
        return [request for request in self.journal if request.matches(pattern)]

    def bytes_sent(self, pattern: str = "") -> int:
        """Bytes in the bodies of the answers to those requests."""
        return sum(request.sent for request in self.requests(pattern))

    def fail(
        self,
        pattern: str,
        status: int = 503,
        times: float = 1,
        drop_after: int | None = None,
        take: int | None = None,
        skip: int = 0,
        retry_after: int | None = None,
    ) -> Fault:
        """Let requests fail.

        Args:
            pattern: regular expression for "METHOD /path".
            status: of the answer.
            times: so often, `math.inf` for ever.
            drop_after: instead, answer as usual but cut the connection after so many bytes of the
                body; shorter answers are left alone. With 0 the work is done and only the answer is
                lost.
            take: instead, cut the connection after so many bytes of the request's body came in.
            skip: let so many such requests pass before.
            retry_after: seconds, for the Retry-After header.

        Returns:
            The fault; its `times` is how often it is still to happen.
        """
        with self.lock:
            self._faults.append(Fault(pattern, status, times, drop_after, take, skip, retry_after))
            return self._faults[-1]

    def _fault(self, request, body_bytes=None):
        """Use up a fault for a request: before it is answered, or one that cuts its body."""
        with self.lock:
            for fault in self._faults:
                if body_bytes is None or fault.drop_after is None:
                    due = body_bytes is None and fault.drop_after is None
                else:
                    due = fault.drop_after < body_bytes
                if due and fault.times > 0 and request.matches(fault.pattern):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    # Clients ---------------------------------------------------------------------------------

    def environment(self, home: Path, token: str = "", xet: bool = False) -> dict[str, str]:
        """Variables of a client that knows only this Hub, with its caches under `home`."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "sitecustomize.py").write_text(GUARD)
        ours = Path(__file__).parents[2]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")
        }
        return inherited | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
            "OUTSIDE_LOG": str(home / "outside"),
            "PYTHONPATH": f"{home}{os.pathsep}{ours}",
            **({"HF_TOKEN": token} if token else {}),
        }

    def run(
        self,
        *arguments,
        home: Path,
        token: str = "",
        cwd: Path | None = None,
        check: bool = True,
        xet: bool = False,
    ):
        """Run Python with arguments as a client; it fails on contact with any other machine.

        Options -I and -S keep the guard out: put GUARD in front of the code then.
        """
        done = subprocess.run(
            [sys.executable, *(str(argument) for argument in arguments)],
            cwd=cwd,
            env=self.environment(home, token, xet),
            stdin=subprocess.DEVNULL,  # nobody answers questions
            capture_output=True,
            text=True,
            timeout=300,
        )
        return self._judged(done, home, check)

    def run_warm(
        self,
        *arguments,
        home: Path,
        token: str = "",
        cwd: Path | None = None,
        check: bool = True,
    ):
        """Run a command of ours as `run` does, but forked from where the libraries are loaded.

        There is such a process for each home, until the server ends.
        """
        from tests.support.warm_start import Warm  # not there where this file is a program

        if home not in self._warm:
            self._warm[home] = Warm(self.environment(home))
        environment = self.environment(home, token)
        done = self._warm[home].run(*arguments, cwd=cwd, environment=environment)
        return self._judged(done, home, check)

    def _judged(self, done, home: Path, check: bool):
        outside = (home / "outside").read_text().split() if (home / "outside").exists() else []
        # `datasets` asks for statistics at a name derived from the endpoint, and lives without.
        outside = set(outside) - {"datasets-server.127.0.0.1"}
        if outside or (check and done.returncode):
            raise AssertionError(
                f"{done.args} failed; other hosts: {outside}\n{done.stdout[-4000:]}\n"
                f"{done.stderr[-6000:]}"
            )
        return done


def _entry(sha256, size, content=None):
    """What a commit says of a file; one without content goes by LFS, and git sees its pointer."""
    lfs = content is None
    git = _pointer(sha256, size) if lfs else content
    oid = hashlib.sha1(b"blob %d\0" % len(git) + git).hexdigest()
    return {"oid": oid, "sha256": sha256, "size": size, "lfs": lfs}


def _pointer(sha256, size):
    version = "version https://git-lfs.github.com/spec/v1"
    return f"{version}\noid sha256:{sha256}\nsize {size}\n".encode()


def front_matter(text: str) -> dict | None:
    """Parse the YAML in front of a card; None without one.

    Raises:
        ValueError: if it is no YAML mapping.
    """
    import yaml

    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    if not match:
        return None
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, dict):
        raise ValueError("the metadata must be a mapping")
    return json.loads(json.dumps(data, default=str))


def card_errors(data: dict, kind: str) -> list[str]:
    """Rules of the Hub that the front matter of a card breaks."""
    errors = []
    if kind == "space":
        if "sdk" not in data:
            errors.append('"sdk" is required')
        errors += [
            f'"{key}" must be one of [{", ".join(SPACE_COLOURS)}]'
            for key in ("colorFrom", "colorTo")
            if data.get(key, "red") not in SPACE_COLOURS
        ]
        if len(data.get("short_description", "")) > 60:
            errors.append('"short_description" length must be less than or equal to 60')
    for model in data.get("model-index", []):
        for result in model.get("results", []):
            needed = [("task", "type"), ("dataset", "type"), ("dataset", "name")]
            missing = [f"{a}.{b}" for a, b in needed if b not in result.get(a, {})]
            for metric in result.get("metrics", []):
                missing += [f"metrics.{key}" for key in ("type", "value") if key not in metric]
            errors += [f'"model-index.results.{field}" is required' for field in missing]
        if "name" not in model:
            errors.append('"model-index.name" is required')
    return errors


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    verbose = False

    def setup(self):
        super().setup()
        self.hub = self.server.hub
        self.hub._connections.add(self.connection)

    def finish(self):
        self.hub._connections.discard(self.connection)
        super().finish()

    def handle(self):
        with suppress(ConnectionError):  # the client went away, or a fault cut the connection
            super().handle()

    def log_message(self, *arguments):
        if self.verbose:
            super().log_message(*arguments)

    def _serve(self):
        self.request_entry = Request(
            self.command,
            self.path,
            self.headers.get("Host", "").split(":")[0],
            self.headers.get("Range", ""),
        )
        self.hub.journal.append(self.request_entry)
        self.body = self._chunks()
        try:
            self._answer()
        except HubError as error:
            message = {"X-Error-Message": ascii(str(error))[1:-1]}
            self._send_json({"error": str(error)}, error.status, message | error.headers)
        for _ in self.body:
            pass  # what was not read would be taken for the next request

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self):
        fault = self.hub._fault(self.request_entry)
        if fault:
            if fault.take is not None:
                taken = 0
                while taken < fault.take and (chunk := next(self.body, b"")):
                    taken += len(chunk)
                raise ConnectionAbortedError
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            page = b"<html>This failure was asked for by a test</html>"  # a gateway's, no JSON
            return self._send(fault.status, page, {"Content-Type": "text/html"} | wait)
        path = urlsplit(self.path).path
        authorization = self.headers.get("Authorization", "")
        if path.startswith("/storage/") and authorization:
            raise HubError(400, "Only one auth mechanism allowed")
        token = authorization.removeprefix("Bearer ")
        if path.startswith("/cas/") and token == self.hub.signature:
            token = ""  # Xet has tokens of its own, and knows no users
        elif path.startswith("/cas/"):
            raise HubError(401, "The token of Xet is not valid")
        if token and token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.user = self.request_entry.user = self.hub.tokens.get(token, "")
        self.may_write = token not in self.hub.read_only
        for methods, pattern, action in ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in methods:
                groups = {key: unquote(value or "") for key, value in match.groupdict().items()}
                return action(self, **groups)
        raise HubError(404, f"This Hub does not know {self.command} {path}")

    # Reading and sending ---------------------------------------------------------------------

    def _chunks(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            chunk = self.rfile.read(min(left, BLOCK))
            if not chunk:
                raise ConnectionAbortedError
            left -= len(chunk)
            yield chunk

    def _json(self):
        return json.loads(b"".join(self.body))

    def _query(self, name):
        return parse_qs(urlsplit(self.path).query).get(name, [""])[0]

    def _send(self, status, body, headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        self._send_blocks(status, len(body), [body], headers)

    def _send_json(self, data, status=200, headers=None):
        self._send(status, json.dumps(data).encode(), headers)

    def _send_blocks(self, status, size, blocks, headers):
        self.request_entry.status = status
        self.send_response(status)
        for name, value in {"Content-Length": size, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self.hub._fault(self.request_entry, size)
        left = fault.drop_after if fault else size
        for block in blocks:
            block = block[:left]
            left -= len(block)
            # Counted before the client can have it: who waits for the client sees the whole count.
            self.request_entry.sent += len(block)
            self.wfile.write(block)
            if fault and not left:
                raise ConnectionAbortedError

    def _send_file(self, path, headers):
        """Send a file or the range of it that was asked for."""
        size = path.stat().st_size
        start, stop, status = 0, size, 200
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | headers
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked and any(asked.groups()):
            first, last = asked.groups()
            start = int(first) if first else max(0, size - int(last))
            stop = min(size, int(last) + 1) if first and last else size
            if start >= size or start >= stop:
                raise HubError(416, "The range is not satisfiable", Content_Range=f"bytes */{size}")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send_blocks(status, stop - start, _blocks(path, start, stop), headers)

    # Access ----------------------------------------------------------------------------------

    def _check_login(self):
        if not self.user:
            raise HubError(401, "Invalid username or password.")

    def _is_member(self, namespace):
        return self.user != "" and self.user in self.hub.organizations.get(namespace, [namespace])

    def _has_access(self, repo):
        return self._is_member(repo.id.split("/")[0]) or self.user in repo.settings["granted"]

    def _repo(self, kind, name, write=False, propose=False):
        """A repository that the user may read, or write to, or propose changes for."""
        repo = self.hub.repositories.get((kind or "models", name))
        if repo is None or (repo.settings["private"] and not self._has_access(repo)):
            # The real Hub sends no code to an anonymous asker, and clients know that of https only.
            message = "Repository not found" if self.user else "Invalid username or password."
            raise HubError(404 if self.user else 401, message, "RepoNotFound")
        if write:
            self._check_login()
            if not (self._is_member(name.split("/")[0]) and self.may_write):
                raise HubError(403, f"You don't have write access to {name}", "Forbidden")
        if propose:
            self._check_login()
            if repo.settings["gated"] and not self._has_access(repo):
                message = f"Access to {repo.kind} {repo.id} is restricted."
                raise HubError(403, message, "GatedRepo")
            if not self.may_write:
                raise HubError(403, "This token may only read", "Forbidden")
        return repo

    # Accounts and repositories ---------------------------------------------------------------

    def _whoami(self):
        self._check_login()
        organizations = [
            {"type": "org", "name": name}
            for name, members in self.hub.organizations.items()
            if self.user in members
        ]
        token = {"displayName": "test", "role": "write" if self.may_write else "read"}
        self._send_json(
            {
                "type": "user",
                "name": self.user,
                "fullname": self.user,
                "orgs": organizations,
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    def _create(self):
        self._check_login()
        data = self._json()
        kind, namespace = data.get("type", "model"), data.get("organization") or self.user
        if not (self._is_member(namespace) and self.may_write):
            rights = f'create a {kind} under the namespace "{namespace}"'
            raise HubError(403, f"You don't have the rights to {rights}")
        repo_id = f"{namespace}/{data['name']}"
        status, error = 200, {}
        if (kind + "s", repo_id) in self.hub.repositories:
            status, error = 409, {"error": f"You already created this {kind} repo: {repo_id}"}
        else:
            private = bool(data.get("private")) or data.get("visibility") == "private"
            if kind == "space" and "sdk" not in data:
                raise HubError(400, '"sdk" is required')
            readme = SPACE_README.format(**data) if kind == "space" else ""
            self.hub.add_repo(kind + "s", repo_id, private=private, readme=readme)
        url = self.hub.endpoint + self.hub.repositories[kind + "s", repo_id].page
        self._send_json({"url": url, "name": repo_id, "id": repo_id} | error, status)

    def _delete(self):
        data = self._json()
        name = f"{data.get('organization') or self.user}/{data['name']}"
        repo = self._repo(data.get("type", "model") + "s", name, write=True)
        with self.hub.lock:
            del self.hub.repositories[repo.kind, repo.id]
            repo.path.unlink()
        self._send_json({})

    def _validate_yaml(self):
        data = self._json()
        errors, warnings = [], []
        try:
            card = front_matter(data["content"])
            warnings = ["empty or missing yaml metadata in repo card"] if card is None else []
            errors = card_errors(card or {}, data["repoType"])
        except ValueError as error:
            errors = [str(error)]
        answer = {
            "errors": [{"message": message} for message in errors],
            "warnings": [{"message": message} for message in warnings],
        }
        self._send_json(answer, 400 if errors else 200)

    # Listings --------------------------------------------------------------------------------

    def _info(self, kind, name, revision=""):
        repo = self._repo(kind, name)
        oid = repo.resolve(revision or "main")
        commits, files = repo.state["commits"], repo.files(oid)
        card = repo.card(files)
        blobs = self._query("blobs") != ""
        siblings = [
            {"rfilename": path} | (_blob(entry) if blobs else {}) for path, entry in files.items()
        ]
        info = {
            "_id": hashlib.sha1(f"{kind}/{name}".encode()).hexdigest()[:24],
            "id": name,
            "author": name.split("/")[0],
            "sha": oid,
            "createdAt": commits[repo.history("main")[-1]]["date"],
            "lastModified": commits[oid]["date"],
            "private": repo.settings["private"],
            "gated": repo.settings["gated"],
            "disabled": False,
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": siblings,
            "usedStorage": sum(entry["size"] for entry in files.values()),
        }
        known = ("pipeline_tag", "library_name", "sdk", "model-index")
        self._send_json(info | {key: card[key] for key in known if key in card})

    def _tree(self, kind, name, revision, path=""):
        repo = self._repo(kind, name)
        entries = _with_folders(repo.files(revision))
        if path and path not in entries:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        if entries.get(path, {}).get("type") == "file":
            return self._send_json([entries[path]])
        prefix = f"{path}/" if path else ""
        below = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if self._query("recursive").lower() not in ("1", "true"):
            below = [entry for entry in below if "/" not in entry["path"][len(prefix) :]]
        return self._send_json(below)

    def _paths_info(self, kind, name, revision):
        entries = _with_folders(self._repo(kind, name).files(revision))
        paths = parse_qs(b"".join(self.body).decode()).get("paths", [])
        paths = dict.fromkeys(path.strip("/") for path in paths)
        self._send_json([entries[path] for path in paths if path in entries])

    def _refs(self, kind, name):
        answer = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        lists = {"heads": answer["branches"], "tags": answer["tags"]}
        lists["pr"] = answer["pullRequests"]
        for ref, oid in self._repo(kind, name).state["refs"].items():
            _, group, short = ref.split("/", 2)
            lists[group].append({"name": short, "ref": ref, "targetCommit": oid})
        self._send_json(answer)

    def _commits(self, kind, name, revision):
        repo = self._repo(kind, name)
        answer = []
        for oid in repo.history(revision):
            commit = repo.state["commits"][oid]
            text = {"title": commit["title"], "message": "", "date": commit["date"]}
            answer.append({"id": oid, "authors": [{"user": commit["user"]}], **text})
        self._send_json(answer)

    def _discussions(self, kind, name):
        requests = self._repo(kind, name).state.get("pull_requests", [])
        author = self._query("author")
        discussions = [
            {
                "title": request["title"],
                "num": number,
                "author": {"name": request["user"]},
                "createdAt": request["date"],
                "status": request["status"],
                "repo": {"name": name, "type": kind[:-1]},
                "isPullRequest": True,
            }
            for number, request in enumerate(requests, start=1)
            if author in ("", request["user"])
        ]
        self._send_json({"discussions": discussions, "count": len(discussions), "start": 0})

    def _change_ref(self, kind, name, group, ref):
        """POST or DELETE a branch or tag; a tag is POSTed to the revision it marks."""
        repo = self._repo(kind, name, write=True)
        data = self._json() if self.command == "POST" else {}
        group = {"branch": "heads", "tag": "tags"}[group]
        start = ref if group == "tags" else data.get("startingPoint") or "main"
        full = f"refs/{group}/{data.get('tag', ref)}"
        with self.hub.lock:
            if self.command == "POST":
                if full in repo.state["refs"]:
                    raise HubError(409, f"Reference already exists: {full}")
                repo.state["refs"][full] = repo.resolve(start)
            elif repo.state["refs"].pop(full, None) is None:
                raise HubError(404, f"Reference does not exist: {full}", "RevisionNotFound")
            repo.save()
        self._send_json({})

    # Uploads ---------------------------------------------------------------------------------

    def _preupload(self, kind, name, revision):
        propose = self._query("create_pr") != ""
        repo = self._repo(kind, name, write=not propose, propose=propose)
        present, answer = repo.files(revision), []
        for file in self._json()["files"]:
            sample = base64.b64decode(file.get("sample", ""))
            lfs = repo.wants_lfs(file["path"], file["size"], sample)
            entry = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular"}
            old = present.get(file["path"])
            if old:
                entry["oid"] = old["sha256" if old["lfs"] else "oid"]
            answer.append(entry | {"shouldIgnore": False})
        self._send_json({"commitOid": repo.resolve(revision), "files": answer})

    def _lfs_batch(self, kind, name):
        data = self._json()
        propose = "ref" not in data  # clients leave it out for a pull request
        repo = self._repo(kind, name, write=not propose, propose=propose)
        answer = []
        for item in data["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if not (repo.objects / item["oid"]).is_file():
                verify = f"{self.hub.endpoint}{repo.page}.git/info/lfs/objects/verify"
                upload = self._storage_url(repo, item["oid"], "upload")
                entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            answer.append(entry)
        self._send_json({"transfer": "basic", "objects": answer})

    def _lfs_verify(self, kind, name):
        repo, item = self._repo(kind, name, propose=True), self._json()
        path = repo.objects / item["oid"]
        if not path.is_file() or path.stat().st_size != item["size"]:
            raise HubError(404, f"Object {item['oid']} was not uploaded")
        self._send_json({})

    def _storage_url(self, repo, sha256, path):
        address = f"/storage{repo.page}/{sha256}/{quote(path)}"
        return f"{self.hub.storage}{address}?signature={self.hub.signature}"

    def _storage(self, sha256):
        """The other host: it knows signed addresses only, and no users."""
        if self._query("signature") != self.hub.signature:
            raise HubError(403, "The signature of this address is not valid")
        target = self.hub.root / "objects" / sha256
        if self.command != "PUT":
            return self._send_file(target, {"ETag": f'"{sha256}"'})
        part, digest = target.with_name(secrets.token_hex(8)), hashlib.sha256()
        with part.open("wb") as handle:
            for chunk in self.body:
                handle.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            part.unlink()
            raise HubError(400, "The content does not have the SHA-256 of the address")
        part.replace(target)
        return self._send(200, b"")

    def _commit(self, kind, name, revision):
        propose = self._query("create_pr") != ""
        repo = self._repo(kind, name, write=not propose, propose=propose)
        operations = [json.loads(line) for line in b"".join(self.body).splitlines() if line]
        header, changes, deletions = {}, {}, []
        for key, value in ((operation["key"], operation["value"]) for operation in operations):
            if key == "header":
                header = value
            elif key == "file":
                content = base64.b64decode(value["content"])
                if len(content) > MAX_REGULAR_BYTES:
                    raise HubError(400, f"{value['path']} is too large and must go by LFS")
                changes[value["path"]] = self.hub._store(content)
            elif key == "lfsFile":
                target = repo.objects / value["oid"]
                if not target.is_file():
                    raise HubError(400, f"LFS object {value['oid']} was never uploaded")
                changes[value["path"]] = _entry(value["oid"], target.stat().st_size)
            elif key in ("deletedFile", "deletedFolder"):
                deletions.append(value["path"])
            else:
                raise HubError(400, f"This Hub does not know the operation {key}")
        if not header.get("summary"):
            raise HubError(400, "A commit must have a summary")
        parent, title = header.get("parentCommit", ""), header["summary"]
        answer, page = {"success": True, "hookOutput": ""}, self.hub.endpoint + repo.page
        with self.hub.lock:
            what = (revision, changes, deletions, parent, self.user, title)
            if propose:
                number, oid = repo.propose(*what)
                answer["pullRequestUrl"] = f"{page}/discussions/{number}"
            else:
                oid = repo.commit(*what)
        self._send_json(answer | {"commitOid": oid, "commitUrl": f"{page}/commit/{oid}"})

    # Uploads by Xet --------------------------------------------------------------------------

    def _xet_token(self, kind, name, revision):
        propose = self._query("create_pr") != ""
        self._repo(kind, name, write=not propose, propose=propose)
        url, token, end = f"{self.hub.storage}/cas", self.hub.signature, int(time.time()) + 3600
        answer = {"casUrl": url, "accessToken": token, "exp": end}
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token}
        self._send_json(answer, headers=headers | {"X-Xet-Token-Expiration": end})

    def _xorb(self, xorb):
        new = not self._xorb_path(xorb).exists()
        self._xorb_path(xorb).write_bytes(b"".join(self.body))
        self._send_json({"was_inserted": new})

    def _xorb_path(self, xorb):
        folder = self.hub.root / "xorbs"
        folder.mkdir(exist_ok=True)
        return folder / xorb

    def _shard(self):
        """Put the files of a shard together; they then are what LFS would have brought."""
        from tests.support.xet_store import chunks_of, files_of

        for pieces in files_of(b"".join(self.body)):
            chunks = []
            for xorb, start, end in pieces:
                path = self._xorb_path(xorb)
                if not path.is_file():
                    raise HubError(400, f"The xorb {xorb} was not uploaded")
                chunks += chunks_of(path.read_bytes())[start:end]
            self.hub._store(b"".join(chunks))
        self._send(200, b'{"type": "result", "result": 1}\n')

    # Collections -----------------------------------------------------------------------------

    def _collections(self):
        """List those of an owner, with four items each at most; or make one."""
        if self.command == "GET":
            owner = self._query("owner")
            found = [self._shown(one, 4) for one in self.hub.collections.values()]
            found = [one for one in found if one and owner in ("", one["owner"]["name"])]
            for one in found:
                del one["position"]  # the client counts
            return self._send_json(found)
        self._check_login()
        data = self._json()
        namespace, title = data["namespace"], data["title"]
        if not (self._is_member(namespace) and self.may_write):
            raise HubError(403, f"You cannot make collections of {namespace}", "Forbidden")
        with self.hub.lock:
            for slug, one in self.hub.collections.items():
                if (one["owner"]["name"], one["title"]) == (namespace, title):
                    return self._send_json({"error": "It exists already", "slug": slug}, 409)
            name = re.sub("[^a-z0-9]+", "-", title.lower())
            slug = f"{namespace}/{name}-{secrets.token_hex(12)}"
            self.hub.collections[slug] = {
                "slug": slug,
                "title": title,
                "owner": {"name": namespace},
                "private": data["private"],
                "items": [],
                "lastUpdated": datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
                "position": 0,
                "theme": "blue",
                "upvotes": 0,
            }
        return self._send_json(self.hub.collections[slug])

    def _shown(self, collection, items=None):
        """A collection as this user sees it; None if it is hidden from them."""
        if collection["private"] and not self._is_member(collection["owner"]["name"]):
            return None
        numbered = enumerate(collection["items"][:items])
        return collection | {"items": [item | {"position": n} for n, item in numbered]}

    def _collection(self, slug, item=""):
        """Read one, add to its items, or change the note or place of an item."""
        collection = self.hub.collections.get(slug)
        shown = collection and self._shown(collection)
        if not shown:
            raise HubError(404, "Collection not found")
        if self.command == "GET":
            return self._send_json(shown)
        self._check_login()
        if not (self._is_member(slug.split("/")[0]) and self.may_write):
            raise HubError(403, "You cannot change this collection", "Forbidden")
        data, items = self._json(), collection["items"]
        note = {"note": {"text": data["note"]}} if "note" in data else {}
        with self.hub.lock:
            if self.command == "POST":
                self._repo(f"{data['item']['type']}s", data["item"]["id"])
                if any(data["item"].items() <= one.items() for one in items):
                    raise HubError(409, "Item already in collection")
                items.append({"_id": secrets.token_hex(12), **data["item"], **note})
                return self._send_json(self._shown(collection))
            number = next((n for n, one in enumerate(items) if one["_id"] == item), None)
            if number is None:
                raise HubError(404, "Item not found")
            items[number] |= note
            if "position" in data:
                items.insert(data["position"], items.pop(number))
        return self._send_json({"success": True})

    # Downloads -------------------------------------------------------------------------------

    def _resolve(self, kind, name, revision, path):
        repo = self._repo(kind, name)
        if repo.settings["gated"] and path != "README.md" and not self._has_access(repo):
            message = f"Access to {repo.kind} {repo.id} is restricted. You must have access to it."
            raise HubError(403 if self.user else 401, message, "GatedRepo")
        oid = repo.resolve(revision)
        entry = repo.files(oid).get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=oid)
        headers = {"X-Repo-Commit": oid}
        if not entry["lfs"]:
            headers["ETag"] = f'"{entry["oid"]}"'
            headers["Content-Type"] = "text/plain; charset=utf-8"
            return self._send_file(repo.objects / entry["sha256"], headers)
        headers["X-Linked-Etag"] = f'"{entry["sha256"]}"'
        headers["X-Linked-Size"] = entry["size"]
        headers["Location"] = self._storage_url(repo, entry["sha256"], path)
        return self._send(302, b"", headers)

    def _nothing(self):
        self._send_json({})


def _blocks(path, start, stop):
    with path.open("rb") as handle:
        handle.seek(start)
        while start < stop:
            block = handle.read(min(BLOCK, stop - start))
            start += len(block)
            yield block


def _blob(entry):
    """Size and names of a file as the listings give them."""
    blob = {"size": entry["size"], "blobId": entry["oid"]}
    if entry["lfs"]:
        pointer_size = len(_pointer(entry["sha256"], entry["size"]))
        lfs = {"size": entry["size"], "pointerSize": pointer_size}
        blob["lfs"] = lfs | {"oid": entry["sha256"], "sha256": entry["sha256"]}
    return blob


def _with_folders(files):
    """{path: listing entry} of files and of the folders that they make."""
    entries = {}
    for path, entry in files.items():
        for parent in reversed(Path(path).parents[:-1]):
            name = parent.as_posix()
            oid = hashlib.sha1(f"tree {name}".encode()).hexdigest()
            entries[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
        blob = _blob(entry)
        entries[path] = {"type": "file", "oid": blob.pop("blobId"), "path": path} | blob
    return entries


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
REVISION = r"/(?P<revision>[^/]+)"
READ = ("GET", "HEAD")
ROUTES = [
    (methods, re.compile(pattern), action)
    for methods, pattern, action in (
        (("GET",), "/api/whoami-v2", _Handler._whoami),
        (("POST",), "/api/repos/create", _Handler._create),
        (("GET", "POST"), "/api/collections", _Handler._collections),
        (("GET",), r"/api/collections/(?P<slug>[^/]+/[^/]+)", _Handler._collection),
        (("POST",), r"/api/collections/(?P<slug>[^/]+/[^/]+)/items", _Handler._collection),
        (
            ("PATCH",),
            r"/api/collections/(?P<slug>[^/]+/[^/]+)/items/(?P<item>[^/]+)",
            _Handler._collection,
        ),
        (("DELETE",), "/api/repos/delete", _Handler._delete),
        (("POST",), "/api/validate-yaml", _Handler._validate_yaml),
        (READ, "/api/telemetry/.*|/api/agent-harnesses", _Handler._nothing),
        (("GET",), API + f"(?:/revision{REVISION})?", _Handler._info),
        (("GET",), API + f"/tree{REVISION}(?:/(?P<path>.+))?", _Handler._tree),
        (("POST",), API + "/paths-info" + REVISION, _Handler._paths_info),
        (("GET",), API + "/refs", _Handler._refs),
        (("GET",), API + "/commits" + REVISION, _Handler._commits),
        (("GET",), API + "/discussions", _Handler._discussions),
        (("POST", "DELETE"), API + "/(?P<group>branch|tag)/(?P<ref>[^/]+)", _Handler._change_ref),
        (("POST",), API + "/preupload" + REVISION, _Handler._preupload),
        (("POST",), API + "/commit" + REVISION, _Handler._commit),
        (("GET",), API + "/xet-write-token" + REVISION, _Handler._xet_token),
        (("POST",), "/cas/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})", _Handler._xorb),
        (("POST",), "/cas/v[12]/shards", _Handler._shard),
        (("POST",), PAGE + r"\.git/info/lfs/objects/batch", _Handler._lfs_batch),
        (("POST",), PAGE + r"\.git/info/lfs/objects/verify", _Handler._lfs_verify),
        (("PUT", *READ), r"/storage/.+?/(?P<sha256>[0-9a-f]{64})/.+", _Handler._storage),
        (READ, PAGE + "/resolve" + REVISION + "/(?P<path>.+)", _Handler._resolve),
    )
]


def main(argv: list[str] | None = None) -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub on loopback.")
    parser.add_argument("root", type=Path, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--user", default="user", help="whose token is hf_USER")
    args = parser.parse_args(argv)
    _Handler.verbose = True
    token = f"hf_{args.user}"
    with HubServer(args.root, {token: args.user}, port=args.port) as server:
        print(
            f"export HF_ENDPOINT={server.endpoint} HF_TOKEN={token} HF_HOME={args.root / 'home'} "
            "HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
