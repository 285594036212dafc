"""The same push with Xet, which users have on, and by Git LFS.

The client does not ask whether a Hub has Xet: with hf_xet installed it uploads every large file by
Xet. The Hub of these tests takes such uploads, and serves what it got as it serves all files:
without `X-Xet-Hash`, so that downloads go by the plain way. Neither is there deduplication across
pushes, nor are the hashes of chunks checked; the SHA-256 of each finished file is.
"""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from tests.support.hub_server import HubServer
from tests.support.model_folders import make_model
from tests.support.xet_store import chunks_of, files_of

pytest.importorskip("hf_xet")

LFS, XET = "/info/lfs/|PUT /storage/", "/cas/|/xet-"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub"), {"hf_user": "user"}) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights of four kinds: noise, text, trained numbers whose exponents repeat, and zeros."""
    folder = make_model(tmp_path_factory.mktemp("models"), "model", 81)
    (folder / "eval_results.json").unlink()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (400_001,), dtype=torch.uint8, generator=generator)
    words = " ".join(f"the {number}. image shows a bird" for number in range(20_000))
    text = torch.frombuffer(bytearray(words.encode()), dtype=torch.uint8)
    tensors = {"noise": noise, "text": text, "zeros": torch.zeros(200_001)}
    tensors["trained"] = torch.randn(300_001, generator=generator) / 50
    save_file(tensors, folder / "model.safetensors")
    return folder


def push(hub, model, repo_id, *, home, xet, check=True):
    command = ["-m", "hub_cards", "push", model, repo_id]
    return hub.run(*command, home=home, token="hf_user", cwd=home.parent, xet=xet, check=check)


def large_files(hub, repo_id):
    entries = hub.repositories["models", repo_id].files("main")
    return {name: entry["sha256"] for name, entry in entries.items() if entry["lfs"]}


def test_both_ways_bring_the_same_files(hub, model, tmp_path):
    for number, (xet, repo_id) in enumerate([(True, "user/xet"), (False, "user/lfs")]):
        (model / "training_curve.png").write_bytes(b"\0" + repo_id.encode())  # new to the storage
        since = len(hub.journal)
        push(hub, model, repo_id, home=tmp_path / str(number), xet=xet)
        used = hub.journal[since:]
        assert any(one.matches(XET) for one in used) == xet
        assert any(one.matches(LFS) for one in used) != xet
        there = hub.files("models", repo_id)
        assert list(large_files(hub, repo_id)) == ["model.safetensors", "training_curve.png"]
        for name in large_files(hub, repo_id):
            assert there[name].read_bytes() == (model / name).read_bytes()
        since = len(hub.journal)
        again = push(hub, model, repo_id, home=tmp_path / f"again {number}", xet=xet)
        assert "nothing to commit" in again.stdout
        assert {one.method for one in hub.journal[since:]} == {"GET"}


def test_the_store_reads_every_compression_that_the_client_uses(hub, model, tmp_path):
    """The client chooses one for each chunk; a chunk without any is stored as it is."""
    push(hub, model, "user/schemes", home=tmp_path / "home", xet=True)
    schemes = set()
    for path in (hub.root / "xorbs").iterdir():
        xorb, at = path.read_bytes(), 0
        for chunk in chunks_of(xorb):
            assert len(chunk) == int.from_bytes(xorb[at + 5 : at + 8], "little")
            schemes.add(xorb[at + 4])
            at += 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")
    assert schemes == {0, 1, 2}


@pytest.mark.parametrize("how", [{"status": 503}, {"drop_after": 0}], ids=["503", "lost"])
@pytest.mark.parametrize(
    "call", ["GET .*/xet-write-token", "POST /cas/v1/xorbs", "POST /cas/.*shards"]
)
def test_a_call_of_xet_may_fail_once(call, how, *, hub, model, tmp_path):
    repo_id = f"user/once-{len(hub.repositories)}"
    (model / "training_curve.png").write_bytes(b"\0" + repo_id.encode())
    fault = hub.fail(call, **how)
    push(hub, model, repo_id, home=tmp_path / "home", xet=True)
    assert fault.times == 0
    assert len(hub.commits("models", repo_id)) == 2  # the Hub's own first one, and ours
    there = hub.files("models", repo_id)["training_curve.png"]
    assert there.read_bytes() == (model / "training_curve.png").read_bytes()


def test_a_refusal_by_the_store_is_not_tried_again(hub, model, tmp_path):
    (model / "training_curve.png").write_bytes(b"\0 refused")
    fault = hub.fail("POST /cas/v1/xorbs", status=403, times=math.inf)
    since = len(hub.journal)
    done = push(hub, model, "user/refused", home=tmp_path / "home", xet=True, check=False)
    fault.times = 0
    assert done.returncode == 9 and "403" in done.stderr
    assert "trying again" not in done.stdout
    tries = [one for one in hub.journal[since:] if one.matches("POST /cas/v1/xorbs")]
    assert 0 < len(tries) < 5
    assert len(hub.commits("models", "user/refused")) == 1


def test_a_push_by_a_token_that_may_not_write_sends_nothing(hub, model, tmp_path):
    since = len(hub.journal)
    done = push(hub, model, "other/model", home=tmp_path / "home", xet=True, check=False)
    assert done.returncode == 4
    assert not [one for one in hub.journal[since:] if one.matches(XET)]


READS = """
import json, sys
from huggingface_hub import hf_hub_download

paths = [hf_hub_download("user/read", name) for name in ("model.safetensors", "config.json")]
json.dump([open(path, "rb").read().hex()[-64:] for path in paths], open("saw.json", "w"))
"""


def test_a_client_with_xet_reads_from_a_hub_that_does_not_offer_it(hub, model, tmp_path):
    push(hub, model, "user/read", home=tmp_path / "home", xet=True)
    about = {"token": "hf_user", "cwd": tmp_path, "xet": True}
    hub.run("-c", READS, home=tmp_path / "reader", **about)
    names = ("model.safetensors", "config.json")
    ends = [(model / name).read_bytes().hex()[-64:] for name in names]
    assert json.loads((tmp_path / "saw.json").read_text()) == ends


def test_a_shard_without_files_names_none():
    header, end = bytes(48), b"\xff" * 32 + bytes(16)
    assert files_of(header + end) == []
