"""Pushes that never half-happen: `hub_cards push` with the real client and a Hub on loopback.

The Hub of these tests has no Xet, so the client runs with HF_HUB_DISABLE_XET=1.
"""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from hub_cards.card.rendering import is_generated
from hub_cards.evidence.weights import read_weights
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import STRANGER, answering_client
from tests.support.golden_weights import checkerboard
from tests.support.hub_server import GUARD, HubServer
from tests.support.images import COLOURS

TOKENS = {
    "hf_SecretOfUser": "user",
    "hf_SecretReader": "user",
    "hf_SecretOfOther": "other",
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "stem": "small"}
LFS = ["examples/0_red.png", "model.safetensors", "training_curve.png"]
REGULAR = [
    "README.md",
    "config.json",
    "configuration_cnn.py",
    "configuration_convzoo.py",
    "image_processing_convzoo.py",
    "layers_by_hand.py",
    "metrics.jsonl",
    "modeling_cnn.py",
    "modeling_convzoo.py",
    "preprocessor_config.json",
    "recipe.toml",
]
FILES = sorted(LFS + REGULAR)

PUSHER = """
def act(folder, repo_id, **options):
    from hub_cards.hub.pushing import push_folder

    return push_folder(folder, repo_id, options=PushOptions(**options))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root, groups = tmp_path_factory.mktemp("hub"), {"zoo": ["user"]}
    with HubServer(root, TOKENS, groups, read_only=["hf_SecretReader"]) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model folder, and what a training run may leave in it."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    torch.manual_seed(0)
    CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **STAGES)).save_pretrained(folder)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(folder)
    (folder / "recipe.toml").write_text('[run]\nname = "tiny"\n')
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (folder / "examples").mkdir()
    for name in ("training_curve.png", "examples/0_red.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    for name in ("training_state.pt", "manifest.json", ".env", "checkpoints/step_1/state.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def push(hub, folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("pusher")
    with answering_client(PUSHER, home, hub.environment(home)) as ask:

        def push(repo_id, token="hf_SecretOfUser", folder=folder, **options):
            return ask(repo_id=repo_id, token=token, folder=str(folder), **options)

        yield push


def commits(hub, repo_id, revision="main", kind="models"):
    """How many commits a branch has, without those that the Hub itself makes at the start."""
    if (kind, repo_id) not in hub.repositories:
        return 0
    return len(hub.commits(kind, repo_id, revision)) - 1


def is_complete(hub, repo_id, folder, revision="main"):
    """Whether all files are on the Hub, byte by byte, with the card for this place."""
    there = hub.files("models", repo_id, revision)
    if sorted(there) != [".gitattributes", *FILES]:
        return False
    card = there["README.md"].read_text()
    assert is_generated(card) and f'"{repo_id}"' in card
    same = (there[name].read_bytes() == (folder / name).read_bytes() for name in FILES[1:])
    return all(same)


# A good day


def test_a_push_is_one_commit_and_a_second_push_is_none(hub, folder, push):
    first = push("user/plain")
    assert first["reason"] is None
    assert first["files"] == dict.fromkeys(FILES, "new")
    assert first["left_out"] == [".env", "checkpoints/", "manifest.json", "training_state.pt"]
    assert first["oid"] == hub.commits("models", "user/plain")[0]
    assert first["commit_url"] == f"{hub.endpoint}/user/plain/commit/{first['oid']}"
    assert is_complete(hub, "user/plain", folder) and commits(hub, "user/plain") == 1
    assert not hub.repositories["models", "user/plain"].settings["private"]
    assert not (folder / "README.md").exists()  # the model folder is not written to

    before = len(hub.journal)
    second = push("user/plain")
    assert second["files"] == dict.fromkeys(FILES, "unchanged")
    assert second["oid"] is None and second["commit_url"] is None
    assert {one.method for one in hub.journal[before:]} == {"GET"}


def test_large_files_are_compared_by_sha256_and_the_others_by_git_id(hub, push):
    push("user/plain")
    entries = hub.repositories["models", "user/plain"].files("main")
    assert {name: entries[name]["lfs"] for name in FILES} == {name: name in LFS for name in FILES}


def test_only_what_changed_is_sent_and_nothing_is_deleted(hub, folder, push, tmp_path):
    push("user/changing")
    (tmp_path / "notes.txt").write_text("kept")
    hub.add_commit("models", "user/changing", tmp_path)
    weights = folder / "model.safetensors"
    old = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(old * 2)
    try:
        sent = len(hub.requests("PUT /storage"))
        result = push("user/changing")
        changed = [name for name, state in result["files"].items() if state != "unchanged"]
        there = hub.files("models", "user/changing")
        assert changed == ["metrics.jsonl"]
        assert there["metrics.jsonl"].read_text() == old * 2
        assert there["notes.txt"].read_text() == "kept"
        assert there["model.safetensors"].read_bytes() == weights.read_bytes()
        assert len(hub.requests("PUT /storage")) == sent
    finally:
        (folder / "metrics.jsonl").write_text(old)


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, push):
    before = len(hub.journal)
    result = push("user/dry", token="", dry_run=True)
    assert result["files"] == dict.fromkeys(FILES, "new") and result["oid"] is None
    assert {one.method for one in hub.journal[before:]} == {"GET"}
    assert ("models", "user/dry") not in hub.repositories


def test_a_private_repository_is_private_or_nothing_is_pushed(hub, folder, push):
    assert push("zoo/secret", private=True)["oid"]
    assert hub.repositories["models", "zoo/secret"].settings["private"]
    assert push("zoo/secret")["oid"] is None
    push("user/plain")
    refused = push("user/plain", private=True)
    assert refused["reason"] == "taken" and "visibility" in refused["message"]


def test_a_branch_is_created_and_the_main_one_left_alone(hub, folder, push):
    result = push("user/branches", revision="candidate")
    assert result["oid"] == hub.commits("models", "user/branches", "candidate")[0]
    assert is_complete(hub, "user/branches", folder, "candidate")
    assert list(hub.files("models", "user/branches")) == [".gitattributes"]
    assert push("user/branches", revision="candidate")["oid"] is None
    repo = hub.repositories["models", "user/branches"]
    repo.state["refs"]["refs/tags/v1"] = repo.resolve("main")
    refused = push("user/branches", revision="v1")
    assert refused["reason"] == "name" and "must be a branch" in refused["message"]


def test_a_pull_request_is_opened_once_even_if_the_answer_is_lost(hub, folder, push, tmp_path):
    (tmp_path / "README.md").write_text("# Someone else's\n")
    hub.add_repo("models", "other/model", tmp_path)
    lost = hub.fail("POST /api/models/other/model/commit/", drop_after=0)
    first = push("other/model", create_pr=True)
    assert lost.times == 0
    assert first["pull_request_url"] == f"{hub.endpoint}/other/model/discussions/1"
    assert commits(hub, "other/model") == 1
    assert is_complete(hub, "other/model", folder, "refs/pr/1")
    again = push("other/model", create_pr=True)
    assert again["pull_request_url"] == first["pull_request_url"] and again["oid"] is None
    assert len(hub.repositories["models", "other/model"].state["pull_requests"]) == 1
    assert push("user/nothing", create_pr=True)["reason"] == "name"


# Bad days


@pytest.mark.parametrize("how", [{"retry_after": 0}, {"drop_after": 0}], ids=["503", "lost"])
def test_any_one_call_may_fail_or_its_answer_be_lost(how, hub, folder, push):
    """The first call, then the second, until a push has no more calls."""
    name, number = f"user/once-{next(iter(how))}", 0
    while True:
        repo_id = f"{name}-{number}"
        (folder / "metrics.jsonl").write_text(json.dumps({"step": number, "name": name}) + "\n")
        (folder / "training_curve.png").write_bytes(b"\0" + repo_id.encode())  # a new upload
        fault = hub.fail("", skip=number, **how)
        result = push(repo_id)
        unused, fault.times = fault.times, 0
        assert result["reason"] is None, (number, result)
        assert is_complete(hub, repo_id, folder) and commits(hub, repo_id) == 1, number
        assert result["oid"] == hub.commits("models", repo_id)[0], number
        if unused:
            break
        number += 1
    assert number >= 10


def test_wherever_a_push_ends_the_hub_is_unchanged_or_complete_and_a_rerun_finishes(
    hub, folder, push
):
    number, again = 0, []
    while True:
        repo_id = f"user/ended-{number}"
        (folder / "training_curve.png").write_bytes(b"\0" + repo_id.encode())
        fault = hub.fail("", status=418, skip=number)  # not worth a second attempt
        result = push(repo_id)
        unused, fault.times = fault.times, 0
        if unused:
            break
        if result["reason"] is None:  # where a card is checked, the client ignores the status
            again.append(repo_id)
        else:
            assert result["reason"] == "refused" and "418" in result["message"]
        assert commits(hub, repo_id) == 0 or is_complete(hub, repo_id, folder)
        assert push(repo_id)["reason"] is None
        assert is_complete(hub, repo_id, folder) and commits(hub, repo_id) == 1
        number += 1
    assert number >= 10 and len(again) <= 1


def test_an_upload_that_is_cut_is_sent_again(hub, folder, push):
    push("user/plain")  # from here on only one file is new to the storage
    (folder / "training_curve.png").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    cut = hub.fail("PUT /storage/user/cut/", take=1_000_000)
    assert push("user/cut")["oid"]
    assert cut.times == 0
    assert is_complete(hub, "user/cut", folder) and commits(hub, "user/cut") == 1


def test_an_upload_that_the_client_gives_up_is_tried_again(hub, folder, push):
    (folder / "training_curve.png").write_bytes(b"\0 stubborn")
    fault = hub.fail("PUT /storage/user/stubborn/", times=6, retry_after=0)
    assert push("user/stubborn")["oid"]
    assert fault.times == 0
    assert is_complete(hub, "user/stubborn", folder) and commits(hub, "user/stubborn") == 1


def test_after_a_long_failure_of_the_commit_a_rerun_uploads_nothing_twice(hub, folder, push):
    (folder / "training_curve.png").write_bytes(b"\0 long failure")
    commit = "POST /api/models/user/long/commit/"
    fault = hub.fail(commit, times=math.inf, retry_after=0)
    failed = push("user/long")
    assert failed["reason"] == "network" and "503" in failed["message"]
    assert len(hub.requests(commit)) == 5  # and no more
    assert list(hub.files("models", "user/long")) == [".gitattributes"]
    uploads = len(hub.requests("PUT /storage/user/long/"))
    fault.times = 0
    assert push("user/long")["oid"]
    assert uploads == len(hub.requests("PUT /storage/user/long/")) == 1
    assert is_complete(hub, "user/long", folder) and commits(hub, "user/long") == 1


def test_a_commit_of_somebody_else_in_between_is_kept(hub, folder, push, tmp_path):
    """The client waits for a second; in that second the repository gets another commit."""
    (tmp_path / "notes.txt").write_text("in between")
    hub.fail("POST /api/models/user/race/preupload/")
    thread = threading.Thread(target=push, args=("user/race",))
    thread.start()
    while thread.is_alive() and not hub.requests("POST /api/models/user/race/preupload/"):
        time.sleep(0.01)
    hub.add_commit("models", "user/race", tmp_path)
    thread.join()
    statuses = [one.status for one in hub.requests("POST /api/models/user/race/commit/")]
    assert statuses == [412, 200]
    there = hub.files("models", "user/race")
    assert sorted(there) == sorted([".gitattributes", "notes.txt", *FILES])


# What a push refuses


@pytest.fixture(scope="module")
def occupied(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("occupied")
    (folder / "README.md").write_text("# Ours\n")
    hub.add_repo("datasets", "user/colours", folder)
    hub.add_repo("spaces", "user/demo", folder)
    hub.add_repo("models", "other/closed", folder, gated=True)
    hub.add_repo("models", "other/public", folder)


@pytest.mark.parametrize(
    ("reason", "exit_code", "words", "options"),
    [
        ("token", 3, "hf auth login", {"token": ""}),
        ("token", 3, "log in again", {"token": "hf_SecretUnknown"}),
        ("token", 3, "log in again", {"token": "hf_Secret\x01Broken"}),
        ("permission", 4, "may only read", {"token": "hf_SecretReader"}),
        ("permission", 4, "one of user, zoo", {"repo_id": "other/new"}),
        ("permission", 4, "one of user, zoo", {"repo_id": "other/public"}),
        ("name", 2, "user/name", {"repo_id": "model"}),
        ("name", 2, "user/name", {"repo_id": "user/a--b"}),
        ("name", 2, "user/name", {"repo_id": "a/b/c"}),
        ("taken", 5, "exists as a dataset", {"repo_id": "user/colours"}),
        ("taken", 5, "exists as a space", {"repo_id": "user/demo"}),
        ("gated", 8, "accept its terms", {"repo_id": "other/closed", "create_pr": True}),
    ],
)
def test_a_push_that_cannot_work_says_why(reason, exit_code, words, options, hub, push, occupied):
    repositories, journal = set(hub.repositories), len(hub.journal)
    refused = push(**{"repo_id": "user/refused"} | options)
    assert (refused["reason"], refused["exit_code"]) == (reason, exit_code)
    assert words in refused["message"]
    assert set(hub.repositories) == repositories
    changing = [one for one in hub.journal[journal:] if one.method != "GET" and one.status < 400]
    assert all("validate-yaml" in one.path for one in changing)


def test_a_model_beside_a_dataset_of_the_same_name_needs_force(hub, folder, push, occupied):
    assert push("user/colours", force=True)["oid"]
    assert is_complete(hub, "user/colours", folder)


def test_a_name_that_this_token_cannot_see_is_taken(hub, push):
    hub.fail("POST /api/repos/create", status=409)
    refused = push("user/unseen")
    assert refused["reason"] == "taken" and "user/unseen" in refused["message"]


def test_a_card_edited_on_the_hub_is_replaced_only_by_force(hub, folder, push, tmp_path):
    push("user/edited")
    card = hub.files("models", "user/edited")["README.md"].read_text()
    edited = card.replace("## How to use", "Written on the website.\n\n## How to use")
    assert edited != card
    (tmp_path / "README.md").write_text(edited)
    hub.add_commit("models", "user/edited", tmp_path)
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    for dry_run in (True, False):
        refused = push("user/edited", dry_run=dry_run)
        assert (refused["reason"], refused["exit_code"]) == ("edited", 6)
        assert "edited by hand" in refused["message"] and "--force" in refused["message"]
    assert commits(hub, "user/edited") == 2
    assert hub.files("models", "user/edited")["README.md"].read_text() == edited
    assert push("user/edited", force=True)["files"]["README.md"] == "changed"
    assert is_complete(hub, "user/edited", folder)


def test_a_card_edited_at_home_is_pushed_as_it_is_if_it_is_a_good_one(hub, folder, push, tmp_path):
    push("user/own")
    card = hub.files("models", "user/own")["README.md"].read_text()
    try:
        own = card.replace("## How to use", "My own words.\n\n## How to use")
        (folder / "README.md").write_text(own)
        assert push("user/own")["files"]["README.md"] == "changed"
        assert hub.files("models", "user/own")["README.md"].read_text() == own
        assert push("user/own")["oid"] is None
        (folder / "README.md").write_text("---\nlicense: mine\n---\n# TODO\n")
        journal = len(hub.journal)
        refused = push("user/own")
        assert (refused["reason"], refused["exit_code"]) == ("folder", 1)
        assert "license" in refused["message"] and "TODO" in refused["message"]
        assert str(folder) in refused["message"]
        assert len(hub.journal) == journal  # found before anything was asked
    finally:
        (folder / "README.md").unlink()


def test_results_of_older_weights_on_the_hub_stop_a_push_that_would_leave_them(
    hub, folder, push, *, tmp_path
):
    """Of a model that was measured, published, trained anew and pushed before it was measured."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(folder, old)
    weights = read_weights(old)
    model = {"sha256": weights.sha256, "num_parameters": weights.num_parameters}
    metrics = {"metrics": {"top1_accuracy": 0.5, "loss": 1.0}, "model": model}
    dataset = {"name": "Colours", "split": "test", "num_samples": 2}
    measured = {"task": "image-classification", "dataset": dataset, **metrics}
    (old / "eval_results.json").write_text(json.dumps({"results": [measured]}))
    assert push("user/again", folder=old)["reason"] is None
    before = hub.files("models", "user/again")
    shutil.copytree(folder, new)
    torch.manual_seed(1)
    CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **STAGES)).save_pretrained(new)
    for options in ({}, {"dry_run": True}, {"force": True}):
        refused = push("user/again", folder=new, **options)
        assert refused["reason"] == "folder" and hub.files("models", "user/again") == before
        assert "results[0] of eval_results.json in the repository is stale" in refused["message"]
    refused = push("user/again", folder=folder)  # the weights that were measured, without results
    assert "the card would be another with eval_results.json" in refused["message"]
    model["sha256"] = read_weights(new).sha256
    (new / "eval_results.json").write_text(json.dumps({"results": [measured]}))
    assert push("user/again", folder=new)["files"]["eval_results.json"] == "changed"
    old_file = "notes: weights sha256:" + weights.sha256
    for name, text in ((".eval_results/user_colours.yaml", old_file), ("sub/recipe.toml", "[")):
        (tmp_path / "more" / name).parent.mkdir(parents=True)
        (tmp_path / "more" / name).write_text(text)
    hub.add_commit("models", "user/again", tmp_path / "more")
    assert push("user/again", folder=old)["reason"] is None
    refused = push("user/again", folder=new)
    assert "user_colours.yaml has results of other weights" in refused["message"]
    # Of a converted model, whose licence the card would name, if it were written from the Hub.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "conversion.json").write_text('{"license": "cc-by-nc-4.0"}')
    hub.add_repo("models", "user/converted", tmp_path / "first")
    refused = push("user/converted", folder=folder)
    assert "the card would be another with conversion.json" in refused["message"]


def test_an_incomplete_folder_is_refused_before_the_hub_is_asked(hub, push, tmp_path):
    journal = len(hub.journal)
    refused = push("user/empty", folder=tmp_path)
    assert refused["reason"] == "folder" and f"missing in {tmp_path}" in refused["message"]
    assert len(hub.journal) == journal


# The command, and what a stranger gets

COMMANDS = """
import json, os, runpy, sys

for token, arguments in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    sys.argv = ["hub_cards", *arguments]
    try:
        runpy.run_module("hub_cards", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def test_the_command_shows_its_plan_and_never_the_token(hub, folder, tmp_path):
    push = ["push", str(folder), "user/command"]
    told = [
        ("hf_SecretOfUser", [*push, "--dry-run"]),
        ("hf_SecretOfUser", [*push, "--private"]),
        ("hf_SecretOfUser", push),
        ("hf_SecretReader", push),
        ("", push),
        ("hf_SecretOfUser", ["push", str(folder), "other/command"]),
        ("hf_SecretOfUser", ["push", str(folder), "not a name"]),
    ]
    hub.fail("GET /api/models/user/command", skip=2, retry_after=0)
    done = hub.run("-c", COMMANDS, json.dumps(told), home=tmp_path / "home", cwd=tmp_path)
    parts = re.split(r"^exit (.*)\n", done.stdout, flags=re.MULTILINE)
    said, codes = parts[:-1:2], parts[1::2]
    assert codes == ["0", "0", "0", "4", "3", "4", "2"]
    assert "user/command: public model, new, branch main" in said[0]
    assert re.search(r"^  new +model\.safetensors +\d+\.\d kB$", said[0], re.MULTILINE)
    assert "left out: .env, checkpoints/, manifest.json, training_state.pt" in said[0]
    assert said[0].endswith("dry run: nothing was sent\n")
    commit = hub.commits("models", "user/command")[0]
    assert "private model, new" in said[1] and f"{hub.endpoint}/user/command/commit/" in said[1]
    assert "HTTP 503" in said[1] and "trying again in 0 s (2 of 5)" in said[1]
    assert said[1].endswith(f"{commit}\n")
    assert "0 of 14 files differ" in said[2]
    assert said[2].endswith(f"nothing to commit: {hub.endpoint}/user/command\n")
    errors = done.stderr.splitlines()
    assert [line[:7] for line in errors] == ["error: "] * 4  # and no warning of the client
    assert "Secret" not in done.stdout + done.stderr and "signature" not in done.stdout


@pytest.fixture(scope="module")
def unreachable(folder, hub, tmp_path_factory):
    """A push to where nobody listens, under way while the other tests run."""
    home = tmp_path_factory.mktemp("unreachable")
    with socket.socket() as held:  # bound, so that nobody else listens there meanwhile
        held.bind(("127.0.0.1", 0))
        nowhere = {"HF_ENDPOINT": f"http://127.0.0.1:{held.getsockname()[1]}"}
        command = [sys.executable, "-m", "hub_cards", "push", str(folder), "user/model"]
        environment = hub.environment(home, "hf_SecretOfUser") | nowhere
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            yield client, nowhere["HF_ENDPOINT"]


LOADS = """
import json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

image, saw = Image.open("image.png"), {}
places = [("user/there", "main"), ("user/hidden", "main"), ("user/there", sys.argv[1])]
for repo, revision in places:
    which = {"revision": revision, "trust_remote_code": True}
    processor = AutoImageProcessor.from_pretrained(repo, **which)
    model = AutoModelForImageClassification.from_pretrained(repo, **which)
    with torch.inference_mode():
        logits = model(**processor(image, return_tensors="pt")).logits
    classify = pipeline("image-classification", model=repo, device="cpu", **which)
    saw[f"{repo} {revision}"] = [logits.tolist(), classify(image)[0]]
json.dump(saw, open("saw.json", "w"))
"""
LOADS_AS_CNN = """
import json, torch
from modeling import CNN, ConvZooImageProcessor
from PIL import Image

processor = ConvZooImageProcessor.from_pretrained("user/there")
model = CNN.from_pretrained("user/there")
with torch.inference_mode():
    logits = model(**processor(Image.open("image.png"), return_tensors="pt")).logits
json.dump(logits.tolist(), open("ours.json", "w"))
"""


def test_what_was_pushed_loads_from_the_hub(unreachable, hub, folder, push, tmp_path):
    """Public, private, and pinned to a commit whose weights were replaced since."""
    pinned = push("user/there")["oid"]
    push("user/hidden", private=True)
    image = Image.fromarray(checkerboard(40, 30))
    image.save(tmp_path / "image.png")
    expected = {}
    model = CNN.from_pretrained(folder)
    batch = ConvZooImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.inference_mode():
        expected["user/hidden main"] = expected[f"user/there {pinned}"] = model(**batch).logits
        model.classifier.bias += torch.tensor([1.0, 2.0, 3.0])
        expected["user/there main"] = model(**batch).logits
    weights = (folder / "model.safetensors").read_bytes()
    try:
        model.save_pretrained(folder)
        assert push("user/there")["files"]["model.safetensors"] == "changed"
    finally:
        (folder / "model.safetensors").write_bytes(weights)
    code = STRANGER + GUARD + LOADS
    about = {"token": "hf_SecretOfUser", "cwd": tmp_path}
    hub.run("-I", "-S", "-c", code, pinned, home=tmp_path / "stranger", **about)
    hub.run("-c", LOADS_AS_CNN, home=tmp_path / "ours", **about)
    saw = json.loads((tmp_path / "saw.json").read_text())
    assert saw.keys() == expected.keys()
    for key, (logits, best) in saw.items():
        np.testing.assert_allclose(logits, expected[key], rtol=1e-5, atol=1e-6)
        assert best["score"] == pytest.approx(expected[key].softmax(1).max().item(), rel=1e-4)
    ours = json.loads((tmp_path / "ours.json").read_text())
    np.testing.assert_allclose(ours, expected["user/there main"], rtol=1e-5, atol=1e-6)


def test_without_a_network_the_command_gives_up_after_a_while(unreachable):
    client, endpoint = unreachable
    said, errors = client.communicate(timeout=120)
    assert client.returncode == 7
    assert said.count("trying again") == 4
    assert errors.startswith(f"error: {endpoint} was not reached") and "Secret" not in errors
