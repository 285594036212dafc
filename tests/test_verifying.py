"""`hub_cards verify` as a stranger uses it: the real client, a Hub on loopback, fresh processes."""

import collections
import json
import math
import re
import shutil
from fractions import Fraction
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_cards.card.rendering import signed, write_card
from hub_cards.verify.intervals import (
    hits_interval,
    mean_interval,
    tolerated_images,
    tolerated_loss,
)
from hub_cards.verify.report import report
from hub_cards.verify.result_checks import check_results
from hub_cards.verify.verifying import Verification
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.evaluations import evaluate
from tests.support.hub_server import HubServer
from tests.support.images import encode, write_split

NAMES = ("red", "green", "blue", "cyan", "pink", "grey", "teal")
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "stem": "small"}


def noise(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 20, 20, 3)) // rng.integers(1, 6, (count, 1, 1, 3))
    return [encode(each.astype(np.uint8)) for each in pixels], rng.integers(0, 7, count).tolist()


EVALUATE = """
import sys
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.protocols import EvaluationProtocol
for data in sys.argv[2:]:
    evaluate_model(
        sys.argv[1],
        data,
        split="test",
        command="convzoo evaluate",
        protocols=[EvaluationProtocol()],
    )
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of 240 images of seven classes."""
    folder = tmp_path_factory.mktemp("verified data") / "many"
    write_split(folder, "test", *noise(240, 0), names=NAMES)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory, data):
    """A Hub with a dataset, and a model evaluated on both: a public one and a private one."""
    folder, home = tmp_path_factory.mktemp("verified"), tmp_path_factory.mktemp("author")
    write_split(folder / "few", "test", *noise(30, 1), rows_per_group=1, names=NAMES)
    torch.manual_seed(0)
    model = folder / "model"
    CNN(CNNConfig(id2label=dict(enumerate(NAMES)), **STAGES)).save_pretrained(model)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(model)
    (model / "recipe.toml").write_text('[run]\nname = "tiny"\n')
    with HubServer(folder / "hub", {"hf_SecretOfUser": "user"}) as server:
        server.add_repo("datasets", "user/few", folder / "few")
        server.run("-c", EVALUATE, model, data, "user/few", home=home)
        for name in ("tiny", "hidden"):
            private = ["--private"] if name == "hidden" else []
            push = ("-m", "hub_cards", "push", model, f"user/{name}", *private)
            server.run(*push, home=home, token="hf_SecretOfUser")
        yield server


@pytest.fixture(scope="module")
def model(hub, tmp_path_factory):
    """What was pushed."""
    folder = tmp_path_factory.mktemp("pushed")
    for name, path in hub.files("models", "user/tiny").items():
        shutil.copyfile(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def verify(hub, tmp_path_factory):
    """`python -m hub_cards verify` from an empty folder: its status, checks and report."""
    home = tmp_path_factory.mktemp("verifier")
    (home / "empty").mkdir()

    def verify(model, *arguments, token="", run=hub.run_warm):
        result = home / "result.json"
        result.unlink(missing_ok=True)
        done = run(
            *("-m", "hub_cards", "verify", model, *arguments, "--num-workers", 0),
            *("--result", result),
            home=home,
            token=token,
            cwd=home / "empty",
            check=False,
        )
        assert "Traceback" not in done.stderr and "Secret" not in done.stdout + done.stderr
        content = json.loads(result.read_text()) if result.exists() else None
        assert not list((home / "empty").iterdir())
        return done, content

    return verify


def verdicts(content, about=""):
    """{check: verdict} of the repository, or of the evaluation with this name."""
    found = [check for check in content["checks"] if check["about"].startswith(about)]
    return {check["name"]: check["verdict"] for check in found if about or not check["about"]}


@pytest.fixture
def tamper(hub, tmp_path):
    """Commit files of user/tiny that a function has changed; the commit, and all is put back."""
    original = hub.commits("models", "user/tiny")[0]

    def tamper(change):
        for name, path in hub.files("models", "user/tiny").items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, tmp_path / name)
        change(tmp_path)
        return hub.add_commit("models", "user/tiny", tmp_path)

    yield tamper
    hub.repositories["models", "user/tiny"].state["refs"]["refs/heads/main"] = original


# What holds


def test_a_pushed_model_holds_as_a_whole(hub, model, data, verify):
    done, content = verify("user/tiny", "--data", "user/few", data, run=hub.run)
    assert done.returncode == 0, done.stdout
    commit = hub.commits("models", "user/tiny")[0]
    assert content["commit"] == commit and f"user/tiny at commit {commit}" in done.stdout
    assert done.stdout.endswith("The results on the card hold.\n")
    assert {check["verdict"] for check in content["checks"]} == {"holds"}
    assert [*verdicts(content)] == [
        *("files", "evidence", "card, metadata", "card, text", "code", "weights")
    ]
    results = json.loads((model / "eval_results.json").read_text())["results"]
    for result, name in zip(results, ("many", "few"), strict=True):
        checks = [check for check in content["checks"] if check["about"] == f"{name} [test]"]
        facts = {check["name"]: check["facts"] for check in checks}
        assert [*facts] == [
            *("images", "names", "preprocessing", "top-1", "top-5", "loss"),
            *("classes", "confusions", "calibration"),
        ]
        assert facts["images"]["seen"] == result["dataset"]["num_samples"]
        for key in ("top1_accuracy", "top5_accuracy"):
            measured = facts[key.replace("top", "top-").partition("_")[0]]
            assert measured["recorded"] == result["metrics"][key] == measured["measured"]
    assert content["files"]["model.safetensors"] == results[0]["model"]["sha256"]
    assert content["environment"]["versions"]["torch"]
    assert content["command"].startswith("python -m hub_cards verify user/tiny --data")
    assert content["seed"] is None


def test_the_command_on_the_card_is_the_one_that_verifies_it(hub, data):
    card = hub.files("models", "user/tiny")["README.md"].read_text()
    (command,) = re.findall(r"^python -m hub_cards verify .*$", card, re.MULTILINE)
    assert command == "python -m hub_cards verify user/tiny --data many user/few"
    assert data.name == "many" and str(data) not in card


def test_a_sample_reads_what_it_needs_of_the_recorded_commit(hub, verify, tmp_path):
    """The dataset has other images by now, and each image is a row group of its own."""
    write_split(tmp_path, "test", *noise(30, 2), rows_per_group=1, names=NAMES)
    recorded = hub.commits("datasets", "user/few")[0]
    hub.add_commit("datasets", "user/few", tmp_path)
    before = len(hub.journal)
    done, content = verify("user/tiny", "--data", "user/few", "--sample", 12)
    reads = [one for one in hub.journal[before:] if one.path.startswith("/storage/datasets")]
    images = [one for one in reads if one.sent < 4096]  # the others are footers
    assert len(images) == len({one.range for one in images}) == 12
    assert done.returncode == 4 and "not all of it was checked" in done.stdout
    assert verdicts(content, "many") == {"images": "not checked"}
    few = verdicts(content, "few")  # 12 losses have no interval
    assert few == dict.fromkeys(("images", "names", "preprocessing", "top-1", "top-5"), "holds") | {
        "loss": "not checked"
    }
    facts = {check["name"]: check["facts"] for check in content["checks"] if check["facts"]}
    assert facts["images"]["identified"] == "commit" and recorded in done.stdout
    assert f"Seed {content['seed']}." in done.stdout
    measured, (low, high) = facts["top-1"]["measured"], facts["top-1"]["interval"]
    expected = hits_interval(round(12 * measured), 12, num_images=30, alpha=0.01 / 3)
    assert [low * 30, high * 30] == pytest.approx(expected)


# What does not


def test_results_raised_everywhere_are_found_out_by_measuring(hub, data, verify, tamper):
    """Somebody who writes all files anew, card included, cannot change what weights do."""
    raised = {}

    def raise_results(folder):
        path = folder / "eval_results.json"
        content = json.loads(path.read_text())
        for result in content["results"]:
            result["metrics"]["top1_accuracy"] += 60 / result["dataset"]["num_samples"]
            for key in ("classes", "confusions", "calibration", "intervals_95"):
                result.pop(key, None)
            raised[result["dataset"]["name"]] = result["metrics"]["top1_accuracy"]
        content["results"] = content["results"][:1]
        path.write_text(json.dumps(content))
        (folder / "README.md").unlink()
        write_card(folder, "user/tiny")

    commit = tamper(raise_results)
    assert raised["many"] < 1
    done, content = verify("user/tiny", "--data", data, "--revision", commit)
    assert done.returncode == 3 and "Something does not hold." in done.stdout
    assert f"at commit {commit}" in done.stdout
    assert verdicts(content, "many") == {
        "images": "holds",
        "names": "holds",
        "preprocessing": "holds",
        "top-1": "does not hold",
        "top-5": "holds",
        "loss": "holds",
    }
    assert set(verdicts(content).values()) == {"holds"}
    arguments = ("user/tiny", "--data", data, "--sample", 120, "--seed", 1)
    done, content = verify(*arguments)
    assert done.returncode == 3 and verdicts(content, "many")["top-1"] == "does not hold"


def test_a_card_edited_on_the_hub_is_found_out(hub, verify, tamper):
    def edit(folder):
        card = (folder / "README.md").read_text()
        (result, _) = json.loads((folder / "eval_results.json").read_text())["results"]
        top1 = result["metrics"]["top1_accuracy"]
        text = f"{100 * top1:.2f} %"
        assert f"value: {top1}\n" in card and text in card
        edited = card.replace(f"value: {top1}\n", "value: 0.99\n").replace(text, "99.00 %")
        (folder / "README.md").write_text(edited)

    tamper(edit)
    done, content = verify("user/tiny")
    assert done.returncode == 3
    expected = {"card, metadata": "does not hold", "card, text": "does not hold"}
    repository = verdicts(content)
    assert expected.items() <= repository.items()
    others = {verdict for name, verdict in repository.items() if name not in expected}
    assert others == {"holds"}
    assert "the card says 0.99, eval_results.json" in done.stdout
    assert verdicts(content, "many") == {"images": "not checked"}  # no data was given


def test_sentences_of_others_are_never_said_to_hold(model, verify, tmp_path):
    """Neither on a card that an author signs anew, nor on one that keeps what is true aside."""
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / "README.md"
    write_card(tmp_path / "model")  # for a folder
    card = path.read_text()
    top1 = re.search(r"^\*\*.* top-1 accuracy\*\* on .*$", card, re.MULTILINE)[0]
    boast = card.replace(top1, f"**99.00 % top-1 accuracy**\n\n<!--\n{top1}\n-->")
    assert boast != card
    resigned = signed(boast[: boast.index("<!-- hub_cards sha256:")])
    for text, verdict in ((card, "holds"), (boast, "not checked"), (resigned, "not checked")):
        path.write_text(text)
        done, content = verify(tmp_path / "model")
        assert done.returncode == 4  # no data was given
        assert verdicts(content)["card, text"] == verdict


def test_one_changed_weight_is_found_out(verify, tamper):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"][0] += 1e-3
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    tamper(change)
    done, content = verify("user/tiny")
    assert done.returncode == 3 and "stale" in done.stdout
    assert verdicts(content)["evidence"] == "does not hold"
    assert verdicts(content)["files"] == "holds"  # it is what the Hub has


def test_a_damaged_file_is_found_out_and_a_private_model_needs_a_token(hub, verify):
    stranger, content = verify("user/hidden")
    assert stranger.returncode == 1 and content is None
    assert "hf auth login" in stranger.stderr and "'user/hidden'" in stranger.stderr
    stored = hub.files("models", "user/hidden")["recipe.toml"]
    text = stored.read_text()
    try:
        stored.write_text(text.replace("tiny", "Tiny"))
        done, content = verify("user/hidden", token="hf_SecretOfUser")
    finally:
        stored.write_text(text)
    assert done.returncode == 3 and verdicts(content)["files"] == "does not hold"
    assert "recipe.toml in" in done.stdout


def test_code_of_the_repository_runs_only_if_it_may(hub, data, verify, *, tamper):
    def change(folder):
        with (folder / "modeling_cnn.py").open("a") as code:
            code.write('\nprint("theirs ran")\n')

    tamper(change)
    done, content = verify("user/tiny")
    assert done.returncode == 4 and "theirs ran" not in done.stdout
    assert verdicts(content)["code"] == "not checked"
    assert "modeling_cnn.py differ" in done.stdout and "--trust-remote-code" in done.stdout
    trusting = ("--data", data, "user/few", "--trust-remote-code")
    done, content = verify("user/tiny", *trusting, run=hub.run)  # code has a place of its own then
    assert done.returncode == 0 and "theirs ran" in done.stdout
    assert "own code ran: transformers_modules." in done.stdout


def test_other_images_are_no_reason_to_doubt_the_card(data, verify, tmp_path):
    write_split(tmp_path / "more", "test", *noise(241, 1), names=NAMES)
    images, labels = noise(240, 0)
    images[17] = noise(1, 5)[0][0]
    write_split(tmp_path / "one", "test", images, labels, names=NAMES)
    done, content = verify("user/tiny", "--data", tmp_path / "more", tmp_path / "one")
    assert done.returncode == 4
    assert verdicts(content, "many") == {"images": "not checked"}
    assert f"{tmp_path / 'more'} [test] has other images: 241, not 240" in done.stdout
    assert f"{tmp_path / 'one'} [test] has other images: their fingerprint" in done.stdout


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("commit, tag or branch of user/tiny; got 'v9'", ["user/tiny", "--revision", "v9"]),
        ("a model on the Hub that this account may read", ["user/none"]),
        ("must look like user/name", ["tiny"]),
        ("a folder has no revisions", [".", "--revision", "main"]),
        ("is missing in .", ["."]),
    ],
)
def test_what_is_no_model_ends_with_an_error(words, arguments, verify):
    done, content = verify(*arguments)
    assert done.returncode == 1 and content is None
    assert done.stderr.startswith("error: ") and words in done.stderr


def test_an_unknown_family_needs_its_own_code(model, verify, tmp_path):
    config = json.loads((model / "config.json").read_text())
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "mynet"}))
    done, _ = verify(tmp_path / "model")
    assert done.returncode == 1 and "got 'mynet'" in done.stderr
    assert "--trust-remote-code" in done.stderr


# Numbers


def chance(k, n, marked, total):
    ways = math.comb(marked, k) * math.comb(total - marked, n - k)
    return Fraction(ways, math.comb(total, n))


@pytest.mark.parametrize(("seen", "total"), [(1, 9), (4, 9), (8, 9), (5, 14), (14, 14)])
def test_the_interval_holds_exactly_the_numbers_that_explain_the_sample(seen, total):
    """By exhaustive enumeration in fractions; and its coverage is what was promised."""
    alpha = 0.1
    intervals = [
        hits_interval(hits, seen, num_images=total, alpha=alpha) for hits in range(seen + 1)
    ]
    for hits, (low, high) in enumerate(intervals):
        expected = []
        for marked in range(hits, total - (seen - hits) + 1):
            at_least = sum(chance(k, seen, marked, total) for k in range(hits, seen + 1))
            at_most = sum(chance(k, seen, marked, total) for k in range(hits + 1))
            if min(at_least, at_most) > alpha / 2:
                expected.append(marked)
        assert [*range(low, high + 1)] == expected
    for marked in range(total + 1):
        covering = [hits for hits, (low, high) in enumerate(intervals) if low <= marked <= high]
        assert sum(chance(hits, seen, marked, total) for hits in covering) >= 1 - alpha


@pytest.mark.parametrize(("hits", "seen"), [(0, 1000), (785, 1000), (1000, 1000), (7840, 10_000)])
def test_the_ends_of_the_interval_are_right_for_imagenet(hits, seen):
    total, half = 50_000, Fraction(1, 600)
    low, high = hits_interval(hits, seen, num_images=total, alpha=1 / 300)

    def at_least(count, marked):
        """In whole numbers of ways, from one to the next."""
        if count == 0:
            return Fraction(1)
        ways = math.comb(marked, count) * math.comb(total - marked, seen - count)
        tail = 0
        for k in range(count, min(seen, marked) + 1):
            tail += ways
            ways = ways * (marked - k) * (seen - k)
            ways //= (k + 1) * (total - marked - seen + k + 1)
        return Fraction(tail, math.comb(total, seen))

    if hits:
        assert at_least(hits, low) > half >= at_least(hits, low - 1)
    if hits < seen:
        misses = seen - hits
        assert at_least(misses, total - high) > half >= at_least(misses, total - high - 1)


def test_the_interval_of_a_mean_has_the_variance_of_drawing_without_replacement():
    """The mean square of half its width, over all samples, is the variance of their means."""
    values, seen, alpha = [0.1, 0.2, 0.9, 1.4, 3.3, 7.0, 7.1], 3, 0.05
    means, squares = [], []
    for drawn in combinations(values, seen):
        mean = float(np.mean(drawn))
        low, high = mean_interval(
            mean, float(np.std(drawn, ddof=1)), seen=seen, num_images=len(values), alpha=alpha
        )
        assert (low + high) / 2 == pytest.approx(mean)
        means.append(mean)
        squares.append(((high - low) / 2 / NormalDist().inv_cdf(0.975)) ** 2)
    assert np.mean(squares) == pytest.approx(np.var(means))


def test_the_interval_of_a_mean_loss_covers_it_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    losses = rng.exponential(1, 20_000) ** 1.5  # skewed, as losses of a good model are
    covered = 0
    for _ in range(4000):
        drawn = losses[rng.integers(0, len(losses), 1000)]
        low, high = mean_interval(
            float(drawn.mean()),
            float(drawn.std(ddof=1)),
            seen=1000,
            num_images=20_000,
            alpha=0.01,
        )
        covered += low <= losses.mean() <= high
    assert 0.975 < covered / 4000 < 0.995


def answer(hits, seen=2000, **more):
    breakdown = {
        "classes": [{"class": 0, "num_samples": 2000, "num_correct": hits}],
        "calibration": {"expected_calibration_error": 0.05},
    }
    about = {"data": "d", "split": "test", "identified": "fingerprint", "num_images": 2000}
    counts = {"top1_accuracy": hits, "top5_accuracy": hits, "loss": 0.5, "loss_deviation": 1.0}
    return about | counts | breakdown | {"seen": seen} | more


RESULT = {
    "dataset": {"name": "d", "split": "test", "num_samples": 2000},
    "metrics": {"top1_accuracy": 0.8, "loss": 0.5},
    "classes": [{"class": 0, "num_samples": 2000, "num_correct": 1600}],
    "calibration": {"expected_calibration_error": 0.05},
}


@pytest.mark.parametrize(
    ("failing", "measured"),
    [
        (set(), answer(1598)),
        ({"top-1"}, answer(1597)),
        ({"top-1", "classes"}, answer(1605)),
        (set(), answer(1600, loss=0.5009)),
        ({"loss"}, answer(1600, loss=0.502)),
        ({"calibration"}, answer(1600, calibration={"expected_calibration_error": 0.052})),
        (set(), answer(390, seen=500)),
        ({"top-1"}, answer(340, seen=500)),
        ({"loss"}, answer(400, seen=500, loss=0.7)),
    ],
)
def test_numbers_hold_within_what_machines_or_samples_differ_by(failing, measured):
    checks = check_results([RESULT], [measured])
    assert {check.name for check in checks if check.verdict != "holds"} == failing


def test_a_sample_without_the_few_large_losses_of_a_good_model_is_no_contradiction():
    """Where 1 in 100 images is wrong, a third of all samples of 100 have none of them."""
    rng = np.random.default_rng(0)
    losses = np.where(np.arange(2000) % 100 == 0, 4.0, 0.01)
    verdicts = collections.Counter()
    for _ in range(300):
        drawn = rng.choice(losses, 100, replace=False)
        hits = int((drawn < 1).sum())
        found = {"loss": float(drawn.mean()), "loss_deviation": float(drawn.std(ddof=1))}
        metrics = {"top1_accuracy": 0.99, "loss": float(losses.mean())}
        checks = check_results([RESULT | {"metrics": metrics}], [answer(hits, 100, **found)])
        verdicts.update(check.verdict for check in checks if check.name == "loss")
    assert verdicts["not checked"] > 60 and verdicts["does not hold"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [{"num_samples": 2000}]},
        {"protocol": "one view"},
        {"dataset": {"name": "d", "split": "test", "subset": "x"}},
        {"metrics": {"loss": "low"}},
    ],
)
def test_a_result_of_another_form_does_not_hold(change):
    (*_, last) = check_results([RESULT | change], [answer(1600)])
    assert (last.name, last.verdict) == ("result", "does not hold")


DERIVED = {"file": "predictions/a.parquet", "num_rows": 2000, "problem": "", "wrong": []}


@pytest.mark.parametrize(
    ("derived", "verdict", "said"),
    [
        ({}, "holds", "all numbers follow from predictions/a.parquet, 2,000 rows"),
        ({"same_answers": 1998}, "holds", "the model answers 1,998 of 2,000 images as it says"),
        ({"same_answers": 1997}, "does not hold", "answers 3 of 2,000 images otherwise than"),
        ({"wrong": ["metrics.loss"]}, "does not hold", "metrics.loss do not follow from pred"),
        ({"problem": "damaged"}, "does not hold", "damaged"),
    ],
)
def test_predictions_are_compared_with_the_numbers_and_with_the_model(derived, verdict, said):
    (check,) = [
        check
        for check in check_results([RESULT], [answer(1600, derived=DERIVED | derived)])
        if check.name == "predictions"
    ]
    assert check.verdict == verdict and said in check.detail


REAL = {"file": "real.json", "num_samples": 1900, "num_correct": 1710, "top1_accuracy": 0.9}
FROM_FILE = "follow from predictions/a.parquet and real.json"


@pytest.mark.parametrize(
    ("again", "seen", "verdict", "said"),
    [
        (None, 2000, "not checked", "trusted: 90.00 %; they were not counted again"),
        ({"reason": "no file"}, 2000, "not checked", "trusted: 90.00 %; no file"),
        (
            (1710, 1900, "predictions/a.parquet"),
            500,
            "holds",
            f"1,710 of 1,900 images, {FROM_FILE}",
        ),
        ((1709, 1900, "predictions/a.parquet"), 500, "does not hold", FROM_FILE),
        ((1710, 1899, "predictions/a.parquet"), 500, "does not hold", "1,899 have labels in real"),
        ((1708, 1900, ""), 2000, "holds", "measured 89.89 %, 2 images apart"),
        ((1707, 1900, ""), 2000, "does not hold", "measured 89.84 %"),
        ((1710, 1899, ""), 2000, "does not hold", "1,899 have labels in real.json"),
        ((425, 475, ""), 500, "holds", "so in ["),
        ((390, 475, ""), 500, "does not hold", "so in ["),
    ],
)
def test_reassessed_labels_are_counted_again(again, seen, verdict, said):
    if isinstance(again, tuple):
        again = dict(zip(("num_correct", "num_samples", "predictions"), again, strict=True))
    measured = answer(seen * 4 // 5, seen) | ({"real": again} if again else {})
    checks = check_results([RESULT | {"real_labels": REAL}], [measured])
    (check,) = [check for check in checks if check.name == "ReaL labels"]
    assert check.verdict == verdict and said in check.detail


def test_one_line_says_what_was_measured_derived_and_trusted():
    results = [RESULT | {"dataset": RESULT["dataset"] | {"name": name}} for name in "abc"]
    answers = [
        answer(1600, derived=DERIVED),
        {"reason": "no data", "derived": DERIVED},
        {"reason": "no data"},
    ]
    checks = check_results(results, answers)
    facts = {"model": "m", "commit": None, "folder": "m", "files": {}, "environment": None}
    done = Verification(**facts, sample=0, seed=None, checks=tuple(checks))
    said = (
        "Results re-measured: a [test]; re-derived from predictions: b [test]; trusted: c [test]."
    )
    assert said in report(done).splitlines()
    assert done.verdict == "not checked"  # predictions alone can be made up


def test_a_mean_of_few_images_is_not_judged():
    checks = check_results([RESULT], [answer(72, seen=90)])
    assert {check.name: check.verdict for check in checks}["loss"] == "not checked"


def test_tolerances():
    assert [tolerated_images(n) for n in (1, 1000, 1001, 50_000)] == [1, 1, 2, 50]
    assert tolerated_loss(0.2) == 0.001 and tolerated_loss(6.0) == pytest.approx(0.006)


NAMED = RESULT | {
    "confusions": [
        {"name": "a", "predicted": "b", "count": 300, "share": 0.15},
        {"name": "a", "predicted": "c", "count": 60, "share": 0.03},
    ]
}


def counts(**pairs):
    found = [
        {"name": "a", "predicted": key, "count": n, "share": n / 2000} for key, n in pairs.items()
    ]
    return {"confusions": found, "label_names": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("verdict", "measured"),
    [
        ("holds", counts(b=300, c=60)),
        ("holds", counts(b=302, c=58)),
        ("does not hold", counts(b=303, c=58)),
        ("does not hold", counts(b=300, d=60)),  # another class
        ("does not hold", counts(b=300)),  # one too many is recorded
        ("does not hold", counts(b=300, c=60, d=40)),  # one was removed
        ("not checked", {}),
    ],
)
def test_confusions_are_measured_again(verdict, measured):
    found = {each.name: each.verdict for each in check_results([NAMED], [answer(1600, **measured)])}
    assert found["confusions"] == verdict


def test_a_full_list_of_confusions_may_lack_rare_ones():
    recorded = {f"k{n}": 40 - n for n in range(20)}  # the rarest has 21 images
    measured = {**recorded, "z": 21}
    del measured["k19"]  # just as rare, so it may be the one that is left out
    result = RESULT | {"confusions": counts(**recorded)["confusions"]}
    for pairs, verdict in ((measured, "holds"), (measured | {"z": 30}, "does not hold")):
        checks = check_results([result], [answer(1600, confusions=counts(**pairs)["confusions"])])
        assert {check.name: check.verdict for check in checks}["confusions"] == verdict


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [("abcdef", "holds"), ("fedcba", "does not hold"), ("abcdeg", "not checked")],
)
def test_names_of_classes_are_those_of_the_data(labels, verdict):
    measured = answer(1600, label_names=list("abcdef"))
    checks = check_results([RESULT], [measured], labels=labels)
    (names,) = [check for check in checks if check.name == "names"]
    assert names.verdict == verdict
    if verdict == "does not hold":
        assert "class 0 is 'a' in the data, in config.json 'f'" in names.detail


def test_top5_of_few_classes_is_not_spoken_of():
    result = RESULT | {"metrics": {"top1_accuracy": 0.8, "top5_accuracy": 1.0}}
    for labels, named in (("abcde", False), ("abcdef", True)):
        checks = check_results([result], [answer(1600)], labels=labels)
        assert ("top-5" in {check.name for check in checks}) == named


def test_class_names_that_were_turned_round_everywhere_are_found_out(data, model, verify, tmp_path):
    """In config.json alone, and in all files with a new card: only the data can tell then."""
    shutil.copytree(model, tmp_path / "model")
    folder = tmp_path / "model"
    config = json.loads((folder / "config.json").read_text())
    names = [config["id2label"][str(index)] for index in range(len(NAMES))]
    config["id2label"] = {str(index): name for index, name in enumerate(names[::-1])}
    config["label2id"] = {name: index for index, name in enumerate(names[::-1])}
    (folder / "config.json").write_text(json.dumps(config))
    done, content = verify(folder)
    assert done.returncode == 3 and verdicts(content)["evidence"] == "does not hold"
    other = dict(zip(names, names[::-1], strict=True))
    results = json.loads((folder / "eval_results.json").read_text())
    for result in results["results"]:
        for row in (*result["classes"], *result["confusions"]):
            row |= {key: other[row[key]] for key in ("name", "predicted") if key in row}
    (folder / "eval_results.json").write_text(json.dumps(results))
    (folder / "README.md").unlink()
    write_card(folder)
    done, content = verify(folder, "--data", data)
    assert done.returncode == 3 and verdicts(content)["evidence"] == "holds"
    many = verdicts(content, "many")
    assert {name for name, verdict in many.items() if verdict != "holds"} == {"names"}


def test_preprocessing_that_is_not_the_measured_one_is_found_out(data, model, verify, tmp_path):
    """The numbers are right, and whoever loads the model gets others."""
    folder = shutil.copytree(model, tmp_path / "model")
    published = json.loads((folder / "preprocessor_config.json").read_text())
    published["image_mean"] = [0.0 for _ in published["image_mean"]]
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    (folder / "README.md").unlink()
    write_card(folder)
    done, content = verify(folder, "--data", data)
    assert done.returncode == 3
    many = verdicts(content, "many")
    assert {name for name, verdict in many.items() if verdict != "holds"} == {"preprocessing"}
    assert re.search(r"measured with image_mean \[.*\], published with \[0.0, ", done.stdout)


def test_a_stock_model_is_measured_again(verify, data, tmp_path):
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], id2label=dict(enumerate(NAMES))
    )
    folder = tmp_path / "resnet"
    ResNetForImageClassification(config).save_pretrained(folder)
    done, content = verify(folder)
    assert done.returncode == 4 and {each["verdict"] for each in content["checks"]} == {
        "not checked"
    }
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    evaluate(folder, data)
    done, content = verify(folder, "--data", data)
    assert done.returncode == 4  # what files such a folder must have is not known
    assert verdicts(content) == {"evidence": "not checked", "weights": "holds"}
    assert {*verdicts(content, "many").values()} == {"holds"}
    (folder / "model.safetensors").rename(folder / "others.safetensors")
    done, content = verify(folder, "--data", data)
    assert done.returncode == 3 and verdicts(content)["weights"] == "does not hold"
