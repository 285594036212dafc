"""Spaces that never half-happen, and run: with the real clients and a Hub on loopback."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from hub_cards.card.rendering import is_generated, write_card
from hub_cards.card.validation import FRONT_MATTER, space_problems, split_card
from hub_cards.hub.metric_spaces import build_metric
from hub_cards.hub.spaces import build_space
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT, STRANGER, answering_client
from tests.support.hub_server import GUARD, SPACE_README, HubServer
from tests.support.images import COLOURS

TOKENS = {"hf_SecretOfUser": "user", "hf_SecretReader": "user", "hf_SecretOfOther": "other"}
METRIC = ROOT / "convzoo/evaluation/metrics/topk_accuracy"

PUSHER = """
def act(repo_id, folder=None, models=(), **options):
    from hub_cards.hub.metric_spaces import push_metric
    from hub_cards.hub.spaces import push_space

    push = push_metric if folder else push_space
    return push(folder or models, repo_id, options=PushOptions(**options))
"""

# Runs app.py of the working directory where only the named modules can be imported.
SERVER = """
import importlib.machinery, json, runpy

class Others(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in HIDDEN:
            return super().find_spec(name, path, target)

HIDDEN = set(json.loads(sys.argv.pop()))
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Others
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a card and an image."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    save_model(folder, seed=0)
    (folder / "examples").mkdir()
    Image.new("RGB", (20, 20), COLOURS["red"]).save(folder / "examples/0_red one.png")
    (folder / "training_state.pt").write_text("not to be published")
    return folder


def save_model(folder, seed):
    torch.manual_seed(seed)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "stem": "small"}
    CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **shape)).save_pretrained(folder)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory, folder):
    with HubServer(tmp_path_factory.mktemp("hub"), TOKENS, {}, ["hf_SecretReader"]) as server:
        published = tmp_path_factory.mktemp("published")
        shutil.copytree(folder, published, dirs_exist_ok=True)
        write_card(published, "user/colours")
        server.add_repo("models", "user/colours", published)
        server.add_repo("models", "user/hidden", published, private=True)
        (published / "preprocessor_config.json").unlink()
        server.add_repo("models", "user/incomplete", published)
        shutil.rmtree(published / "examples")
        shutil.copy(folder / "preprocessor_config.json", published)
        server.add_repo("models", "user/plain", published)
        yield server


@pytest.fixture(scope="module")
def push(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("pusher")
    with answering_client(PUSHER, home, hub.environment(home)) as ask:

        def push(repo_id, *models, token="hf_SecretOfUser", **options):
            what = {} if "folder" in options else {"models": models or ["user/colours"]}
            return ask(repo_id=repo_id, token=token, **what, **options)

        yield push
    log = (home / "stderr").read_text()
    assert "user/hidden" in log and "needs a secret HF_TOKEN" in log


def text(hub, repo_id, name, revision="main"):
    return hub.files("spaces", repo_id, revision)[name].read_text(encoding="utf-8")


def front_matter(hub, repo_id):
    return yaml.safe_load(FRONT_MATTER.match(text(hub, repo_id, "README.md"))[1])


def commits(hub, repo_id, revision="main"):
    """How many commits a branch has, without that of the Hub itself."""
    return len(hub.commits("spaces", repo_id, revision)) - 1


def is_complete(hub, repo_id):
    there = hub.files("spaces", repo_id)
    names = [".gitattributes", "README.md", "app.py", "models.txt", "requirements.txt"]
    card = there["README.md"].read_text(encoding="utf-8")
    same = there["app.py"].read_bytes() == (ROOT / "app.py").read_bytes()
    return sorted(there) == names and is_generated(card) and f'Client("{repo_id}")' in card and same


# What is pushed


def test_a_space_is_one_commit_and_a_second_push_is_none(hub, push):
    first = push("user/plain", "user/plain")  # beside a model of this name
    assert first["oid"] == hub.commits("spaces", "user/plain")[0]
    assert commits(hub, "user/plain") == 1
    assert first["commit_url"] == f"{hub.endpoint}/spaces/user/plain/commit/{first['oid']}"
    assert text(hub, "user/plain", "app.py") == (ROOT / "app.py").read_text()
    commit = hub.commits("models", "user/plain")[0]
    assert text(hub, "user/plain", "models.txt") == f"user/plain@{commit}\n"
    metadata = front_matter(hub, "user/plain")
    assert metadata["models"] == ["user/plain"] and metadata["sdk"] == "gradio"
    assert metadata["sdk_version"] == importlib.metadata.version("gradio")
    model, files, revision = metadata["preload_from_hub"][0].split()
    assert (model, revision) == ("user/plain", commit) and "model.safetensors" in files.split(",")
    before = len(hub.journal)
    second = push("user/plain", "user/plain")
    assert second["oid"] is None and set(second["files"].values()) == {"unchanged"}
    assert {one.method for one in hub.journal[before:]} == {"GET"}


def test_images_are_ours_and_each_has_its_licence(hub, push):
    push("user/images", "user/plain")
    there = hub.files("spaces", "user/images")
    images = {name.partition("/")[2] for name in there if name.endswith(".jpg")}
    credits = text(hub, "user/images", "examples/CREDITS.md")
    rows = [line.split(" | ") for line in credits.splitlines() if ".jpg |" in line]
    assert {row[0].removeprefix("| ") for row in rows} == images and len(images) == 8
    assert {row[-1] for row in rows} == {"CC0-1.0 |"}
    for name in images:
        ours = ROOT / "data/photos" / name
        assert there[f"examples/{name}"].read_bytes() == ours.read_bytes()


def test_a_new_commit_of_the_model_is_a_new_commit_of_the_space(hub, push, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    old = hub.add_repo("models", "user/moving", tmp_path)
    push("user/follower", "user/moving")
    (tmp_path / "config.json").write_text('{"changed": true}')
    new = hub.add_commit("models", "user/moving", tmp_path)
    states = push("user/follower", "user/moving")["files"]
    changed = {name for name, state in states.items() if state != "unchanged"}
    assert changed == {"models.txt", "README.md"}
    assert text(hub, "user/follower", "models.txt") == f"user/moving@{new}\n"
    push("user/follower", f"user/moving@{old}")
    assert text(hub, "user/follower", "models.txt") == f"user/moving@{old}\n"


def test_a_private_model_needs_a_secret_and_is_not_preloaded(hub, push):
    push("user/private", "user/hidden", private=True)
    assert hub.repositories["spaces", "user/private"].settings["private"]
    assert "preload_from_hub" not in front_matter(hub, "user/private")
    assert "set the secret `HF_TOKEN`" in text(hub, "user/private", "README.md")


def test_branches_pull_requests_and_dry_runs(hub, push, tmp_path):
    before = len(hub.journal)
    dry = push("user/dry", token="", dry_run=True)
    assert dry["reason"] is None and set(dry["files"].values()) == {"new"}
    assert {one.method for one in hub.journal[before:]} == {"GET"}
    assert ("spaces", "user/dry") not in hub.repositories
    branch = push("user/branches", revision="next")
    assert branch["oid"] == hub.commits("spaces", "user/branches", "next")[0]
    assert "models.txt" not in hub.files("spaces", "user/branches")
    (tmp_path / "README.md").write_text("# Someone else's\n")
    hub.add_repo("spaces", "other/space", tmp_path)
    first = push("other/space", create_pr=True)
    assert first["pull_request_url"] == f"{hub.endpoint}/spaces/other/space/discussions/1"
    assert push("other/space", create_pr=True)["pull_request_url"] == first["pull_request_url"]
    assert commits(hub, "other/space") == 1


# Bad days


def test_any_one_call_may_fail(hub, push):
    """The first call, then the second, until a push has no more calls."""
    number = 0
    while True:
        repo_id = f"user/once-{number}"
        fault = hub.fail("", skip=number, retry_after=0)
        result = push(repo_id)
        unused, fault.times = fault.times, 0
        assert result["reason"] is None, (number, result)
        assert is_complete(hub, repo_id) and commits(hub, repo_id) == 1, number
        if unused:
            break
        number += 1
    assert number >= 7


def test_wherever_a_push_ends_the_space_is_the_hubs_own_or_complete_and_a_rerun_finishes(hub, push):
    number = 0
    while True:
        repo_id = f"user/ended-{number}"
        fault = hub.fail("", status=418, skip=number)  # not worth a second attempt
        result = push(repo_id)
        unused, fault.times = fault.times, 0
        if unused:
            break
        assert result["reason"] == "refused" or is_complete(hub, repo_id)
        if ("spaces", repo_id) in hub.repositories:
            assert commits(hub, repo_id) == 0 or is_complete(hub, repo_id)
        assert push(repo_id)["reason"] is None
        assert is_complete(hub, repo_id) and commits(hub, repo_id) == 1
        number += 1
    assert number >= 7


@pytest.mark.parametrize("call", ["repos/create", "spaces/user/lost-.*/commit"])
def test_the_answer_to_what_changes_the_hub_may_be_lost(call, hub, push):
    repo_id = f"user/lost-{call[:5]}"
    fault = hub.fail(f"POST /api/{call}", drop_after=0)
    result = push(repo_id)
    assert fault.times == 0 and result["oid"] == hub.commits("spaces", repo_id)[0]
    assert is_complete(hub, repo_id) and commits(hub, repo_id) == 1


@pytest.mark.parametrize(
    ("reason", "exit_code", "words", "models", "options"),
    [
        ("token", 3, "hf auth login", [], {"token": ""}),
        ("token", 3, "log in again", [], {"token": "hf_SecretUnknown"}),
        ("permission", 4, "may only read", [], {"token": "hf_SecretReader"}),
        ("permission", 4, "one of user", [], {"repo_id": "other/new"}),
        ("name", 2, "user/name", [], {"repo_id": "space"}),
        ("name", 2, "a folder here, or an id on the Hub", ["user/absent"], {}),
        ("name", 2, "a folder here, or an id on the Hub", ["nowhere/quickstart/model"], {}),
        ("name", 2, "may see; got 'user/hidden'", ["user/hidden"], {"token": "hf_SecretOfOther"}),
        ("name", 2, "no revision 'v9'", ["user/colours@v9"], {}),
        ("folder", 1, "lacks preprocessor_config.json", ["user/incomplete"], {}),
        ("folder", 1, "missing in", [str(ROOT / "recipes")], {}),
        ("name", 2, "called as the metric's module", [], {"folder": str(METRIC)}),
    ],
)
def test_a_push_that_cannot_work_says_why(reason, exit_code, words, models, options, hub, push):
    repositories = set(hub.repositories)
    refused = push(options.pop("repo_id", "user/refused"), *models, **options)
    assert (refused["reason"], refused["exit_code"]) == (reason, exit_code), refused
    assert words in refused["message"]
    assert set(hub.repositories) == repositories


def test_what_was_made_or_edited_by_hand_is_replaced_only_by_force(hub, push, tmp_path):
    (tmp_path / "README.md").write_text("---\nsdk: gradio\n---\n# Mine\n")
    hub.add_repo("spaces", "user/mine", tmp_path)
    push("user/edited")
    card = text(hub, "user/edited", "README.md")
    (tmp_path / "README.md").write_text(card.replace("## API", "Hello.\n\n## API"))
    hub.add_commit("spaces", "user/edited", tmp_path)
    (tmp_path / "README.md").write_text(SPACE_README.format(name="app", sdk="gradio"))
    (tmp_path / "app.py").write_text("print('mine')\n")
    hub.add_repo("spaces", "user/app", tmp_path)
    (tmp_path / "README.md").unlink()
    hub.add_repo("spaces", "user/bare", tmp_path)
    push("user/below")  # its card stays as it is
    hub.add_commit("spaces", "user/below", tmp_path)
    edited = {"mine": "README.md", "edited": "README.md"}
    for repo_id, file in {**edited, **dict.fromkeys(["app", "bare", "below"], "app.py")}.items():
        refused = push(f"user/{repo_id}")
        assert (refused["reason"], refused["exit_code"]) == ("edited", 6)
        assert file in refused["message"] and "--force" in refused["message"]
        assert push(f"user/{repo_id}", force=True)["oid"]
        assert is_complete(hub, f"user/{repo_id}")


# What runs


def hidden_modules(requirements):
    """Installed modules that are not there where only these lines and gradio were installed."""
    wanted, seen = [*requirements, "gradio"], set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name not in seen and (
            not requirement.marker or requirement.marker.evaluate({"extra": ""})
        ):
            seen.add(name)
            wanted += importlib.metadata.requires(name) or []
    owners = importlib.metadata.packages_distributions().items()
    return [module for module, names in owners if not seen & set(map(canonicalize_name, names))]


@contextlib.contextmanager
def serve(folder, hub, home):
    """Run a Space with what it asks for and nothing else; yield a client."""
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    index, *lines = (folder / "requirements.txt").read_text().splitlines()
    if not index.startswith("--"):
        lines.append(index)
    hidden = hidden_modules(lines)
    assert {"accelerate", "pytest", "matplotlib"} <= set(hidden)
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "uploads")}
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-u", "-c", STRANGER + GUARD + SERVER, json.dumps(hidden)],
        cwd=folder,
        env=hub.environment(home, token="hf_SecretOfUser") | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = ""
        try:
            while "Running on" not in said:
                line = process.stdout.readline()
                said += line
                assert line, said
            yield Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        finally:
            process.terminate()
    assert not (home / "outside").exists()


def download(hub, repo_id, folder):
    for name, path in hub.files("spaces", repo_id).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return folder


def test_a_copy_of_the_space_shows_the_models_as_they_were(hub, folder, push, tmp_path):
    """One whose weights are replaced on the Hub later, a private one, and two in the Space."""
    from gradio_client import handle_file
    from transformers import pipeline

    other = tmp_path / "other"
    save_model(other, seed=1)
    pushed = push("user/four", "user/colours", "user/hidden", str(other), str(folder))
    assert pushed["reason"] is None and pushed["left_out"] == ["training_state.pt"]
    save_model(tmp_path / "later", seed=2)
    hub.add_commit("models", "user/colours", tmp_path / "later")
    space = download(hub, "user/four", tmp_path / "space")
    assert not space_problems(space) and not (space / "examples").exists()
    places = (space / "models.txt").read_text().split()
    assert places[2:] == ["models/cnn", "models/cnn-2"]
    before = len(hub.journal)
    image = folder / "examples/0_red one.png"
    with serve(space, hub, tmp_path / "home") as client:
        answer = client.predict(handle_file(image), api_name="/predict")
        config = client.config
    for number, model in enumerate((folder, folder, other, folder)):
        classify = pipeline("image-classification", model=str(model), trust_remote_code=True)
        scores = {each["label"]: each["score"] for each in classify(str(image))}
        got = {e["label"]: e["confidence"] for e in answer[4 * number]["confidences"]}
        assert got == pytest.approx(scores, rel=1e-4)
    (examples,) = [part for part in config["components"] if part["type"] == "dataset"]
    assert "0_red" in json.dumps(examples["props"]["samples"])
    got = {one.path for one in hub.journal[before:] if "/resolve/" in one.path}
    names = {re.sub("%20", " ", path.partition("/resolve/")[2].partition("/")[2]) for path in got}
    _, files, _ = front_matter(hub, "user/four")["preload_from_hub"][0].split()
    assert names - set(files.split(",")) == {"examples/0_red one.png"}
    assert set(files.split(",")) <= names


def test_a_space_of_model_folders_needs_no_hub(folder, tmp_path):
    build_space([str(folder)], "user/local", target=tmp_path)
    metadata = yaml.safe_load(FRONT_MATTER.match((tmp_path / "README.md").read_text())[1])
    assert "models" not in metadata and "preload_from_hub" not in metadata
    assert (tmp_path / "models.txt").read_text() == "models/cnn\n"


LOADS_METRICS = """
import evaluate, json, sys

answers = {}
for name, examples in json.loads(sys.argv[1]).items():
    metric = evaluate.load(f"user/{name}")
    metric.add_batch(predictions=examples["predictions"], references=examples["references"])
    answers[name] = metric.compute(**examples["options"])
print(json.dumps(answers))
"""
TOPK = {"predictions": [[1, 0], [0, 1]], "references": [0, 0], "options": {"k": [1, 2]}}


def examples_of(name):
    """Arguments and answer in the docstring of a metric."""
    about = (METRIC.parent / name / f"{name}.py").read_text().split('"""')[1]
    arguments, answer = re.search(r"compute\(\s+(predictions=.*)\s+\)  # (\{.*\})", about).groups()
    given = eval(f"dict({arguments})")
    lists = {key: given.pop(key) for key in ("predictions", "references")}
    return lists | {"options": given}, eval(answer)


def test_metrics_load_from_their_spaces_and_a_page_answers(hub, push, tmp_path):
    assert push("user/topk_accuracy", folder=str(METRIC))["oid"]
    assert push("user/topk_accuracy", folder=str(METRIC))["oid"] is None
    assert front_matter(hub, "user/topk_accuracy")["tags"] == ["evaluate", "metric"]
    assert 'evaluate.load("user/topk_accuracy")' in text(hub, "user/topk_accuracy", "README.md")
    asked, expected = {"topk_accuracy": TOPK}, {}
    for name in sorted(path.name for path in METRIC.parent.iterdir() if path.is_dir()):
        if name != METRIC.name and not name.startswith("_"):
            (tmp_path / name).mkdir()
            build_metric(METRIC.parent / name, f"user/{name}", target=tmp_path / name)
            hub.add_repo("spaces", f"user/{name}", tmp_path / name)
            asked[name], expected[name] = examples_of(name)
    assert len(asked) == 9
    (tmp_path / "empty").mkdir()
    done = hub.run(
        "-c", LOADS_METRICS, json.dumps(asked), home=tmp_path / "home", cwd=tmp_path / "empty"
    )
    found = json.loads(done.stdout.splitlines()[-1])
    topk = {"top1_accuracy": 0.5, "top2_accuracy": 1.0}
    assert found.pop("topk_accuracy") == topk
    assert found == {name: pytest.approx(answer, abs=5e-3) for name, answer in expected.items()}
    space = download(hub, "user/topk_accuracy", tmp_path / "space")
    with serve(space, hub, tmp_path / "visitor") as client:
        got = client.predict("[[1, 0], [0, 1]]", "[0, 0]", '{"k": [1, 2]}', api_name="/compute")
    assert got == topk


# The rules and the command


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: cnn", "title: ''", "must have title"),
        ("colorFrom: indigo", "colorFrom: brown", "colorFrom must be one of red"),
        ("sdk: gradio", "sdk: flask", "sdk must be one of"),
        ("python_version: '3.1", "python_version: 3.1 #", "python_version must be text"),
        ("short_description: ", f"short_description: {'x' * 60}", "short_description must be"),
        ("license: apache-2.0", "license: mine", "license must be an identifier"),
        ("app_file: app.py", "app_file: main.py", "app_file must be a file"),
        ("pinned: false", "models: [a/b/c]", "models must be text"),
        ("pinned: false", f"preload_from_hub: {['a/b'] * 11}", "at most 10"),
        ("(examples/CREDITS.md)", "(examples/NONE.md)", "link to examples/NONE.md"),
        ("torch==", "torch>=", "exact public versions"),
        ("numpy==", "numpy==1.0+cpu\nnumpy==", "got 'numpy==1.0+cpu'"),
    ],
)
def test_rules_of_the_hub_are_known_before_a_push(old, new, words, spare, tmp_path):
    shutil.copytree(spare, tmp_path / "space")
    assert space_problems(tmp_path / "space") == []
    name = "requirements.txt" if "==" in old else "README.md"
    good = (spare / name).read_text(encoding="utf-8")
    assert old in good
    (tmp_path / "space" / name).write_text(good.replace(old, new, 1), encoding="utf-8")
    (problem,) = space_problems(tmp_path / "space")
    assert words in problem


def test_a_space_gets_the_torch_of_cpus(spare, tmp_path):
    """Let pip choose from an index that has both, as PyPI and PyTorch's index do together."""
    index, *lines = (spare / "requirements.txt").read_text().splitlines()
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    (line,) = [line for line in lines if line.startswith("torch==")]
    version = line.removeprefix("torch==")
    for local in ("", "+cpu"):
        name = f"torch-{version}{local}"
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
            metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}{local}\n"
            wheel.writestr(f"{name}.dist-info/METADATA", metadata)
            wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{name}.dist-info/RECORD", "")
    pip = [sys.executable, "-m", "pip", "--isolated", "download", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--find-links", str(tmp_path), "--dest", str(tmp_path / "got"), line],
        env=os.environ | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "got").iterdir()] == [
        f"torch-{version}+cpu-py3-none-any.whl"
    ]


def test_a_space_with_a_gpu_gets_the_torch_of_pypi_which_is_that_of_cuda(spare, tmp_path):
    """PyPI's wheel of torch depends on the CUDA libraries; PyTorch's index of CPU wheels is off."""
    build_space([str(spare / "models/cnn")], "user/gpu", target=tmp_path, gpu=True)
    of_cpu = (spare / "requirements.txt").read_text().splitlines()
    assert (tmp_path / "requirements.txt").read_text().splitlines() == of_cpu[1:]
    metadata, card = split_card((tmp_path / "README.md").read_text())
    assert metadata["suggested_hardware"] == "t4-small" and "for NVIDIA GPUs" in card
    assert "suggested_hardware" not in split_card((spare / "README.md").read_text())[0]


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    """A Space of a model without images."""
    model, spare = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("spare")
    save_model(model, seed=3)
    build_space([str(model)], "user/spare", target=spare)
    return spare


def test_the_command_writes_a_folder_or_pushes(hub, folder, tmp_path):
    def command(*arguments, token="hf_SecretOfUser"):
        return hub.run_warm(
            "-m", "hub_cards", *arguments, home=tmp_path / "home", token=token, check=False
        )

    written = command("space", folder, "user/colours", "user/new", "--output", tmp_path / "space")
    assert written.returncode == 0 and (tmp_path / "space/models/cnn/config.json").is_file()
    assert ("spaces", "user/new") not in hub.repositories
    again = command("space", folder, "user/new", "--output", tmp_path / "space")
    assert again.returncode == 1 and "exists" in again.stderr
    pushed = command("space", "user/colours", "user/new")
    assert pushed.returncode == 0 and "user/new: public space, new, branch main" in pushed.stdout
    assert pushed.stdout.endswith(f"{hub.commits('spaces', 'user/new')[0]}\n")
    wrong = command("space", "user/absent", "user/new", "--output", tmp_path / "other", token="")
    assert wrong.returncode == 2 and not (tmp_path / "other").exists()
    metric = command("metric", METRIC, "user/other", "--dry-run")
    assert metric.returncode == 2 and "topk_accuracy" in metric.stderr
