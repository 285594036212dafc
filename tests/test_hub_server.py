"""The loopback Hub of the other tests, checked with the clients that users have."""

import hashlib
import http.client
import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from tests.support.clients import ROOT
from tests.support.hub_server import HubServer
from tests.support.images import coloured_images, write_split

TOKENS = {"hf_user": "user", "hf_reader": "user", "hf_other": "other"}
CARD = "---\nlicense: mit\ntags: [tiny]\npipeline_tag: image-classification\n---\n# Tiny\n"

# What a user does, step by step; `saw` is what they see.
CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

folder, other_folder, here = (Path(argument) for argument in sys.argv[1:])
api, other, anybody = HfApi(), HfApi(token="hf_other"), HfApi(token=False)
reader, stranger = HfApi(token="hf_reader"), HfApi(token="hf_unknown")
saw = {}

def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }

def error(function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except (HfHubHTTPError, ValueError) as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, response.status_code if response is not None else None]
    return None

# Create, fill, read back
saw["names"] = [api.whoami()["name"], other.whoami()["name"]]
saw["url"] = api.create_repo("user/model")
first = api.upload_folder(repo_id="user/model", folder_path=folder, commit_message="First").oid
saw["again"] = api.upload_folder(repo_id="user/model", folder_path=folder).oid == first
saw["files"] = {
    name: Path(hf_hub_download("user/model", name)).read_bytes() == content
    for name, content in contents(folder).items()
}
snapshot = contents(Path(snapshot_download("user/model", cache_dir=here / "second cache")))
del snapshot[".gitattributes"]
saw["snapshot"] = snapshot == contents(folder)

# A second version; the first one stays
api.create_tag("user/model", tag="v1")
second = api.upload_folder(repo_id="user/model", folder_path=other_folder).oid
texts = {
    revision: Path(hf_hub_download("user/model", "config.json", revision=revision)).read_text()
    for revision in ("main", "v1", first, second)
}
saw["texts"] = list(texts.values())
api.delete_file("config.json", "user/model")
saw["listed"] = sorted(api.list_repo_files("user/model"))
saw["tree"] = sorted(entry.path for entry in api.list_repo_tree("user/model", revision="v1"))
paths = api.get_paths_info("user/model", ["model.safetensors", "none", "sub"], revision="v1")
saw["paths"] = [[entry.path, getattr(entry, "size", None)] for entry in paths]
info = api.model_info("user/model", revision="v1", files_metadata=True)
sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
saw["info"] = [info.sha == first, info.private, info.pipeline_tag, info.card_data.license, sizes]
refs = api.list_repo_refs("user/model")
tags = {tag.name: tag.target_commit == first for tag in refs.tags}
saw["refs"] = [[branch.name for branch in refs.branches], tags]
saw["titles"] = [commit.title for commit in api.list_repo_commits("user/model")]
api.create_branch("user/model", branch="try/it", revision="v1")
upload = dict(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="user/model")
api.upload_file(**upload, revision="try/it")
saw["branch"] = [api.file_exists("user/model", "x.txt", revision=r) for r in ("try/it", "main")]

# Ranges
weights = (folder / "model.safetensors").read_bytes()
with HfFileSystem().open("user/model/model.safetensors", block_size=1000) as handle:
    handle.seek(2_000_000)
    saw["range"] = handle.read(500) == weights[2_000_000:2_000_500]

# Who may do what
api.create_repo("user/secret", private=True)
api.upload_file(path_or_fileobj=b"hidden", path_in_repo="a.txt", repo_id="user/secret")
saw["secret"] = Path(hf_hub_download("user/secret", "a.txt")).read_text()
gated = dict(repo_id="user/gated", filename="weights.bin", repo_type="dataset")
saw["errors"] = {
    "secret, other": error(other.model_info, "user/secret"),
    "secret, anybody": error(
        anybody.hf_hub_download, "user/secret", "a.txt", cache_dir=here / "empty cache"
    ),
    "unknown token": error(stranger.model_info, "user/model"),
    "no repository": error(api.model_info, "user/none"),
    "no revision": error(api.hf_hub_download, "user/model", "README.md", revision="v9"),
    "no file": error(api.hf_hub_download, "user/model", "none.txt"),
    "gated, other": error(other.hf_hub_download, **gated),
    "gated, anybody": error(anybody.hf_hub_download, **gated),
    "exists": error(api.create_repo, "user/model"),
    "foreign namespace": error(api.create_repo, "other/model"),
    "foreign repository": error(other.upload_file, **upload),
    "nobody": error(anybody.upload_file, **upload),
    "read-only token": error(reader.upload_file, **upload),
    "stale parent": error(api.upload_file, **upload, parent_commit=first),
    "tag exists": error(api.create_tag, "user/model", tag="v1"),
    "card": error(api.upload_file, path_or_fileobj=b"---\\na: [\\n---\\n", path_in_repo="README.md",
                  repo_id="user/model"),
}
api.create_repo("user/model", exist_ok=True)
anybody.hf_hub_download("user/gated", "README.md", repo_type="dataset")
api.hf_hub_download(**gated)
api.create_repo("zoo/shared", repo_type="dataset")
api.delete_repo("zoo/shared", repo_type="dataset")
saw["deleted"] = not api.repo_exists("zoo/shared", repo_type="dataset")

# A bad day
api.create_repo("user/flaky")
flaky = dict(repo_id="user/flaky", folder_path=folder)
saw["flaky"] = [error(api.upload_folder, **flaky), api.list_repo_files("user/flaky")]
api.upload_folder(**flaky)
got = snapshot_download("user/flaky", local_dir=here / "flaky", max_workers=1)
(here / "flaky" / ".gitattributes").unlink()
saw["recovered"] = contents(Path(got)) == contents(folder)
Path("saw.json").write_text(json.dumps(saw))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with HubServer(root, TOKENS, {"zoo": ["user"]}, read_only=["hf_reader"]) as server:
        yield server


@pytest.fixture(scope="module")
def saw(hub, tmp_path_factory):
    """What the client above saw, and the requests it made."""
    here = tmp_path_factory.mktemp("client")
    folder, changed = here / "folder", here / "changed"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"version": 1}')
    (folder / "empty.txt").touch()
    (folder / "sub" / "a text (1).txt").write_text("text")
    (folder / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    changed.mkdir()
    (changed / "config.json").write_text('{"version": 2}')
    gated = here / "gated"
    gated.mkdir()
    (gated / "README.md").write_text("Ask first.\n")
    (gated / "weights.bin").write_bytes(bytes(100))
    hub.add_repo("datasets", "user/gated", gated, gated=True)

    hub.fail("GET /storage/user/flaky/.*/model.safetensors", drop_after=1_000_000)
    hub.fail("POST /user/flaky.git/info/lfs/objects/batch", status=429, retry_after=0)
    hub.fail("HEAD /user/flaky/resolve/.*/config.json")
    hub.fail("POST /api/models/user/flaky/commit/main")
    hub.run("-c", CLIENT, folder, changed, here, home=here / "home", token="hf_user", cwd=here)
    return json.loads((here / "saw.json").read_text())


def test_files_come_back_as_they_were_uploaded(hub, saw):
    assert saw["names"] == ["user", "other"]
    assert saw["url"] == f"{hub.endpoint}/user/model"
    assert len(saw["files"]) == 5 and all(saw["files"].values())
    assert saw["snapshot"]


def test_only_large_files_go_by_lfs_and_each_content_once(hub, saw):
    assert len(hub.requests("POST /user/model.git/info/lfs/objects/batch")) == 2
    uploads = hub.requests("PUT /storage")  # user/flaky has the same weights
    assert len(uploads) == 1 and uploads[0].host == "localhost" and uploads[0].user == ""
    assert saw["flaky"][1] == [".gitattributes"]


def test_an_upload_of_the_same_files_makes_no_commit(hub, saw):
    assert saw["again"]
    assert saw["titles"][-2:] == ["First", "initial commit"]
    assert len(saw["titles"]) == 4  # and the second version, and the deletion


def test_revisions_stay_what_they_were(saw):
    assert saw["texts"] == ['{"version": 2}', '{"version": 1}', '{"version": 1}', '{"version": 2}']
    names = [".gitattributes", "README.md", "config.json", "empty.txt", "model.safetensors"]
    assert saw["tree"] == [*names, "sub"]
    assert saw["listed"] == sorted({*names, "sub/a text (1).txt"} - {"config.json"})
    assert saw["paths"] == [["model.safetensors", 3_000_000], ["sub", None]]
    assert saw["info"][:4] == [True, False, "image-classification", "mit"]
    assert saw["info"][4]["model.safetensors"] == 3_000_000
    assert saw["refs"] == [["main"], {"v1": True}]
    assert saw["branch"] == [True, False]


def test_a_range_is_read_without_the_rest(hub, saw):
    assert saw["range"]
    ranged = [one for one in hub.requests("GET /storage/user/model/") if one.range]
    assert [one.status for one in ranged] == [206]
    assert ranged[0].range.startswith("bytes=2000000-") and ranged[0].sent < 5000


def test_everybody_gets_the_error_of_the_real_hub(saw):
    assert saw["secret"] == "hidden"
    assert saw["errors"] == {
        "secret, other": ["RepositoryNotFoundError", 404],
        "secret, anybody": ["RepositoryNotFoundError", 401],
        "unknown token": ["HfHubHTTPError", 401],
        "no repository": ["RepositoryNotFoundError", 404],
        "no revision": ["RevisionNotFoundError", 404],
        "no file": ["RemoteEntryNotFoundError", 404],
        "gated, other": ["GatedRepoError", 403],
        "gated, anybody": ["GatedRepoError", 401],
        "exists": ["HfHubHTTPError", 409],
        "foreign namespace": ["HfHubHTTPError", 403],
        "foreign repository": ["HfHubHTTPError", 403],
        "nobody": ["HfHubHTTPError", 401],
        "read-only token": ["HfHubHTTPError", 403],
        "stale parent": ["HfHubHTTPError", 412],
        "tag exists": ["HfHubHTTPError", 409],
        "card": ["ValueError", None],
    }
    assert saw["deleted"]


def test_a_failed_commit_changes_nothing_and_other_failures_are_survived(hub, saw):
    assert saw["flaky"] == [["HfHubHTTPError", 503], [".gitattributes"]]
    assert saw["recovered"]
    head = hub.requests("HEAD /user/flaky/resolve/.*/config.json")
    assert [one.status for one in head] == [503, 200]
    batch = hub.requests("POST /user/flaky.git/info/lfs/objects/batch")
    assert [one.status for one in batch] == [429, 200, 200]
    weights = hub.requests("GET /storage/user/flaky/")
    assert weights[0].sent == 1_000_000 and weights[-1].status in (200, 206)


def test_the_files_of_a_server_are_there_for_the_next_one(hub, saw):
    with HubServer(hub.root, TOKENS) as server:
        assert server.commits("models", "user/model") == hub.commits("models", "user/model")
        with urllib.request.urlopen(f"{server.endpoint}/user/model/resolve/v1/config.json") as got:
            assert got.read() == b'{"version": 1}'


# Without a client ------------------------------------------------------------------------------


def ask(hub, method, path, **headers):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def numbers(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "small.txt").write_text("0123456789")
    (folder / "large.bin").write_text("0123456789")
    hub.add_repo("datasets", "user/numbers", folder, private=True)
    return "/datasets/user/numbers/resolve/main/"


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
    ],
)
@pytest.mark.parametrize("name", ["small.txt", "large.bin"])
def test_ranges(hub, numbers, name, asked, status, body, content_range):
    path, token = numbers + name, {"Authorization": "Bearer hf_user"}
    if name == "large.bin":
        got, headers, _ = ask(hub, "GET", path, **token, Range=asked)
        assert got == 302 and headers["X-Linked-Size"] == "10"
        assert headers["Location"].startswith(hub.storage + "/storage/")
        path, token = headers["Location"].removeprefix(hub.storage), {}
    got, headers, content = ask(hub, "GET", path, **token, Range=asked)
    assert (got, headers["Content-Range"]) == (status, content_range)
    assert body is None or content == body
    last = hub.journal[-1]
    assert (last.range, last.status, last.sent) == (asked, status, len(content))


def test_the_storage_host_knows_signed_addresses_and_no_tokens(hub, numbers):
    token = {"Authorization": "Bearer hf_user"}
    _, headers, _ = ask(hub, "HEAD", numbers + "large.bin", **token)
    path = headers["Location"].removeprefix(hub.storage)
    assert ask(hub, "GET", path)[0] == 200
    assert ask(hub, "GET", path, **token)[0] == 400
    assert ask(hub, "GET", path.partition("?")[0])[0] == 403


def test_simulated_data_is_served_from_where_it_is(hub, tmp_path):
    """Two shards of 300 GB, of which the disk holds nothing."""
    for number in range(2):
        with (tmp_path / f"train-{number}.parquet").open("wb") as handle:
            handle.truncate(300 * 2**30)
    hub.add_repo("datasets", "user/huge", tmp_path, link=True)
    path = "/datasets/user/huge/resolve/main/train-{}.parquet"
    places = [ask(hub, "HEAD", path.format(number))[1] for number in range(2)]
    assert places[0]["X-Linked-Etag"] != places[1]["X-Linked-Etag"]
    address = places[1]["Location"].removeprefix(hub.storage)
    status, _, body = ask(hub, "GET", address, Range=f"bytes={200 * 2**30}-{200 * 2**30 + 9}")
    assert (status, body) == (206, bytes(10))


def test_a_client_that_leaves_loopback_is_found_out(hub, tmp_path):
    code = "import urllib.request; urllib.request.urlopen('http://huggingface.co/api')"
    with pytest.raises(AssertionError, match="other hosts: {'huggingface.co'}"):
        hub.run("-c", code, home=tmp_path / "home", check=False)


def test_it_runs_by_hand(tmp_path):
    script = ROOT / "tests" / "support" / "hub_server.py"
    arguments = [sys.executable, script, "--port", "0", tmp_path]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            variables = dict(
                part.split("=", 1) for part in process.stdout.readline().decode().split()[1:]
            )
            ask = urllib.request.Request(variables["HF_ENDPOINT"] + "/api/whoami-v2")
            ask.add_header("Authorization", f"Bearer {variables['HF_TOKEN']}")
            with urllib.request.urlopen(ask) as answer:
                assert json.load(answer)["name"] == "user"
        finally:
            process.terminate()


# The other libraries ---------------------------------------------------------------------------

READERS = """
import hashlib, json
from datasets import load_dataset

rows = load_dataset("user/colours", split="train", streaming=True, token="hf_user").decode(False)
digests = [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows]
names = rows.features["label"].names

import evaluate

metric = evaluate.load("user/topk_accuracy")
metric.add_batch(predictions=[[1, 0], [0, 1]], references=[0, 0])
print(json.dumps([digests, names, metric.compute(k=[1, 2])]))
"""


def test_datasets_streams_parquet_files_and_evaluate_loads_a_space(hub, tmp_path):
    images, labels = coloured_images(20, seed=3)
    write_split(tmp_path / "colours", "train", images, labels)
    hub.add_repo("datasets", "user/colours", tmp_path / "colours", private=True)
    hub.add_repo("spaces", "user/topk_accuracy", ROOT / "convzoo/evaluation/metrics/topk_accuracy")
    hub.fail("GET /storage/datasets/user/colours/.*/train-00001", status=503)
    done = hub.run("-c", READERS, home=tmp_path / "home", cwd=tmp_path)
    digests, names, metrics = json.loads(done.stdout.splitlines()[-1])
    assert digests == [hashlib.sha256(image).hexdigest() for image in images]
    assert names == ["red", "green", "blue"]
    assert metrics == {"top1_accuracy": 0.5, "top2_accuracy": 1.0}
    reads = hub.requests("GET /storage/datasets/user/colours/.*/train-00001")
    assert reads[0].status == 503 and {one.status for one in reads[1:]} == {206}
