"""Collections: made once, brought up to date, and never robbed of what people put there."""

import json
import re

import pytest

from hub_cards.evidence.folder import read_evidence
from hub_cards.hub.collection import OUR_NOTE, collection_note
from tests.support.clients import answering_client
from tests.support.hub_server import HubServer
from tests.support.model_folders import NUM_PARAMETERS, make_bare, make_model, put_results, result

TOKENS = {"hf_SecretOfUser": "user", "hf_SecretReader": "user", "hf_SecretOfOther": "other"}
ALL = ["user/worst", "user/best", "zoo/middle"]
ORDER = ["user/best", "zoo/middle", "user/worst"]
NOTES = {
    "user/best": f"76.05 % top-1 on Colours [test], {NUM_PARAMETERS} parameters",
    "zoo/middle": f"38.02 % top-1 on Colours [test], {NUM_PARAMETERS} parameters",
    "user/worst": f"30.80 % top-1 on Colours [test], {NUM_PARAMETERS} parameters",
}

CLIENT = "from hub_cards.hub.collection import update_collection as act"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root, groups = tmp_path_factory.mktemp("hub"), {"zoo": ["user"]}
    folder = tmp_path_factory.mktemp("models")
    with HubServer(root, TOKENS, groups, read_only=["hf_SecretReader"]) as server:
        for repo_id, correct in zip(ALL, (81, 200, 100), strict=True):
            model = make_model(folder, repo_id.split("/")[1], correct)
            server.add_repo("models", repo_id, model)
        (folder / "demo").mkdir()
        (folder / "demo" / "README.md").write_text("---\nsdk: gradio\n---\n")
        server.add_repo("spaces", "user/demo", folder / "demo")
        server.add_repo("models", "user/empty", folder / "demo")
        server.add_repo("models", "other/model", make_model(folder, "other", 7))
        yield server


@pytest.fixture(scope="module")
def update(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("client")
    with answering_client(CLIENT, home, hub.environment(home)) as ask:

        def update(title, model_ids=ALL, token="hf_SecretOfUser", **options):
            return ask(title=title, model_ids=model_ids, token=token, **options)

        yield update


def collections(hub, title, namespace="user"):
    found = hub.collections.values()
    return [one for one in found if (one["owner"]["name"], one["title"]) == (namespace, title)]


def items(hub, title, namespace="user"):
    (collection,) = collections(hub, title, namespace)
    return {one["id"]: one.get("note", {}).get("text") for one in collection["items"]}


def writes(hub, since):
    return [one.method for one in hub.journal[since:] if one.method not in ("GET", "HEAD")]


def test_the_models_come_with_notes_the_best_first_and_a_second_run_sends_nothing(hub, update):
    first = update("Family", space_id="user/demo")
    (collection,) = collections(hub, "Family")
    assert first["url"] == f"{hub.endpoint}/collections/{collection['slug']}"
    assert len(first["changes"]) == 5  # a collection, three models, a Space
    assert items(hub, "Family") == NOTES | {"user/demo": None}
    assert list(items(hub, "Family")) == [*ORDER, "user/demo"]
    assert [one["type"] for one in collection["items"]] == ["model"] * 3 + ["space"]
    assert not collection["private"]
    since = len(hub.journal)
    second = update("user/Family", list(reversed(ALL)), space_id="user/demo")
    assert second == first | {"changes": []} and writes(hub, since) == []


def test_a_better_result_changes_the_note_and_the_place(hub, update, tmp_path):
    model = make_model(tmp_path, "learner", 90)
    hub.add_repo("models", "user/learner", model)
    update("Learning", [*ALL, "user/learner"])
    assert list(items(hub, "Learning")) == [*ORDER[:2], "user/learner", "user/worst"]
    measured = result(model, metrics={"top1_accuracy": 250 / 263})
    measured["dataset"] = json.loads((model / "eval_results.json").read_text())["results"][0][
        "dataset"
    ]
    put_results(model, measured)
    hub.add_commit("models", "user/learner", model)
    changes = update("Learning", [*ALL, "user/learner"])["changes"]
    assert [line.split()[0] for line in changes] == ["note", "order"]
    assert list(items(hub, "Learning")) == ["user/learner", *ORDER]
    assert items(hub, "Learning")["user/learner"].startswith("95.06 % top-1 on Colours [test], ")


def test_what_people_put_there_stays(hub, update):
    """A note in own words, foreign items, and their places among ours."""
    update("Kept", ["user/worst"])
    (collection,) = collections(hub, "Kept")
    own = {"_id": "1", "type": "model", "id": "other/model", "note": {"text": "read this"}}
    collection["items"].insert(0, own)
    collection["items"][1]["note"]["text"] = "my favourite"
    changes = update("Kept")["changes"]
    assert [line.split()[0] for line in changes] == ["new", "new", "order"]
    assert list(items(hub, "Kept")) == ["other/model", *ORDER]
    notes = items(hub, "Kept")
    assert (notes["other/model"], notes["user/worst"]) == ("read this", "my favourite")
    since = len(hub.journal)
    assert update("Kept", ["user/worst", "user/best"])["changes"] == []  # nothing is removed
    assert writes(hub, since) == []


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, update):
    since = len(hub.journal)
    plan = update("user/Planned", token="", dry_run=True)
    assert plan["url"] is None and len(plan["changes"]) == 4
    assert f"new   model user/best: {NOTES['user/best']}" in plan["changes"]
    assert writes(hub, since) == [] and collections(hub, "Planned") == []
    assert update("Planned", token="", dry_run=True)["reason"] == "token"


def test_an_organization_has_its_own_and_a_private_one_stays_private(hub, update):
    update("zoo/Hidden", private=True)
    (collection,) = collections(hub, "Hidden", "zoo")
    assert collection["private"] and list(items(hub, "Hidden", "zoo")) == ORDER
    assert update("zoo/Hidden")["changes"] == []
    update("zoo/Open")
    refused = update("zoo/Open", private=True)
    assert refused["reason"] == "taken" and "visibility" in refused["message"]


@pytest.mark.parametrize("how", [{"retry_after": 0}, {"drop_after": 0}], ids=["503", "lost"])
def test_any_one_call_may_fail_or_its_answer_be_lost(how, hub, update):
    """The first call, then the second, until an update has no more calls."""
    number = 0
    while True:
        title = f"{next(iter(how))} {number}"
        fault = hub.fail("", skip=number, **how)
        done = update(title, ["user/worst", "user/best"])
        unused, fault.times = fault.times, 0
        assert done["reason"] is None, (number, done)
        assert list(items(hub, title)) == ["user/best", "user/worst"], number
        if unused:
            break
        number += 1
    assert number >= 6


@pytest.mark.parametrize(
    ("reason", "words", "options"),
    [
        ("token", "hf auth login", {"token": ""}),
        ("token", "log in again", {"token": "hf_SecretUnknown"}),
        ("permission", "may only read", {"token": "hf_SecretReader"}),
        ("permission", "one of user, zoo", {"title": "other/Refused"}),
        ("name", "user/name", {"model_ids": ["model"]}),
        ("name", "user/nothing must be a model", {"model_ids": ["user/nothing"]}),
        ("name", "user/nothing must be a Space", {"space_id": "user/nothing"}),
        ("folder", "user/empty cannot be described", {"model_ids": ["user/empty"]}),
    ],
)
def test_what_cannot_work_is_explained_before_anything_is_sent(reason, words, options, hub, update):
    since = len(hub.journal)
    refused = update(**{"title": "Refused"} | options)
    assert refused["reason"] == reason and words in refused["message"]
    assert writes(hub, since) == [] and collections(hub, "Refused") == []


def test_a_model_without_results_comes_last_with_its_size(hub, update, tmp_path):
    bare = make_bare(tmp_path / "bare")
    assert collection_note(read_evidence(bare)) == f"{NUM_PARAMETERS} parameters"
    hub.add_repo("models", "user/bare", bare)
    update("Unmeasured", ["user/bare", "user/worst"])
    assert list(items(hub, "Unmeasured")) == ["user/worst", "user/bare"]


@pytest.mark.parametrize("note", [*NOTES.values(), "25.6 M parameters", "74.4 k parameters"])
def test_notes_of_ours_are_known_and_edited_ones_are_not(note):
    assert OUR_NOTE.fullmatch(note)
    assert not OUR_NOTE.fullmatch(f"{note}, my favourite")
    assert not OUR_NOTE.fullmatch(f"best: {note}")


def test_the_command_shows_its_plan_and_ends_with_the_codes_of_a_push(hub, tmp_path):
    command = ["-m", "hub_cards", "collection", "Command"]
    about = {"home": tmp_path / "home", "token": "hf_SecretOfUser", "check": False}
    dry = hub.run(*command, *ALL, "--dry-run", **about)
    assert dry.returncode == 0 and dry.stdout.endswith("dry run: nothing was sent\n")
    first, again = (hub.run_warm(*command, *ALL, **about) for _ in range(2))
    (collection,) = collections(hub, "Command")
    url = f"{hub.endpoint}/collections/{collection['slug']}"
    assert "user/Command: public collection, new" in first.stdout
    assert re.search(r"^  new   model user/best: 76.05 % top-1", first.stdout, re.MULTILINE)
    assert first.stdout.endswith(f"\n{url}\n")
    assert again.stdout.endswith(f"\nnothing to change: {url}\n") and again.returncode == 0
    failed = hub.run_warm(*command, "user/nothing", **about)
    assert failed.returncode == 2 and failed.stderr.startswith("error: user/nothing must be")
    said = "".join(done.stdout + done.stderr for done in (dry, first, again, failed))
    assert "Secret" not in said and dry.stderr == first.stderr == again.stderr == ""
