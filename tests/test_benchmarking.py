"""`convzoo benchmark`: what is counted and timed, its file, its card, and what is refused."""

import json

import pytest
import torch
from torch import nn

from convzoo.benchmarking.benchmarking import BenchmarkOptions, benchmark_model, benchmark_text
from convzoo.benchmarking.contestants import Network, cost_of, made_ready
from convzoo.benchmarking.timing import Times, peak_bytes, ratios, time_in_turns
from convzoo.cli import main
from convzoo.layers import describe_network
from modeling import CNN, CNNConfig, ConvZooImageProcessor

SIZES = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "stem": "small", "num_labels": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "a model"
    CNN(CNNConfig(**SIZES)).eval().save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    return folder


def test_costs_are_those_of_the_formulas():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 6, 5)
    )
    cost = cost_of(Network(name="a", module=network), (3, 8, 6))
    assert cost.num_activations == 4 * 8 * 6 + 5
    assert cost.num_multiply_adds == 4 * 8 * 6 * 3 * 9 + 4 * 8 * 6 * 5
    assert cost.num_parameters == 4 * 3 * 9 + 4 + 4 * 8 * 6 * 5 + 5


def test_a_network_that_does_not_take_the_images_is_named():
    narrow = Network(name="narrow", module=nn.Conv2d(1, 4, 3))
    with pytest.raises(ValueError, match=r"3 x 8 x 6 \(.*\); narrow does not: .* 1 channels"):
        cost_of(narrow, (3, 8, 6))


def test_peak_memory_is_what_two_layers_hold_at_a_time(capfd):
    """A pooling needs no memory beside its input and its output."""
    network = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2))
    assert peak_bytes(network, torch.zeros(4, 2, 64, 64)) == 4 * 2 * (32**2 + 16**2) * 4
    assert capfd.readouterr() == ("", "")  # PyTorch's profiler writes to stderr


class Sleeping(nn.Module):
    """Computes for a number of microseconds of processor time."""

    def __init__(self, milliseconds):
        super().__init__()
        self.seconds = milliseconds / 1000

    def forward(self, x):
        import time

        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return x


def test_a_network_that_computes_twice_as_long_is_half_as_fast():
    times = time_in_turns([Sleeping(4), Sleeping(2)], torch.zeros(1), rounds=3, seconds=0.02)
    assert [len(each.processor_seconds) for each in times] == [3, 3]
    middle, least, most = ratios(*times)
    assert all(0 < each.processor_share < 1.2 for each in times)
    assert least <= middle <= most and middle == pytest.approx(0.5, rel=0.1)
    assert Times(seconds=[0.001] * 95 + [1] * 5).percentile(50) == pytest.approx(1)


@pytest.mark.parametrize("preparation", ["loaded", "fused"])
def test_networks_of_others_are_folded_and_give_the_same(preparation):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    nn.init.uniform_(network[1].running_mean, -1, 1)
    x = torch.randn(2, 3, 8, 8)
    ready = made_ready(network, preparation, "float32", device="cpu")
    assert next(ready.parameters()).is_contiguous(memory_format=torch.channels_last) == (
        preparation == "fused"
    )
    assert any(isinstance(m, nn.BatchNorm2d) for m in ready.modules()) == (preparation == "loaded")
    assert torch.allclose(ready(x), network(x), atol=1e-6)


def test_a_busy_processor_is_told(model):
    options = BenchmarkOptions(batch_sizes=(1,), rounds=3, threads=1)
    result = benchmark_model(str(model), options)
    for row in result["rows"]:
        row["processor_share"] = 0.97
    assert "busy" not in benchmark_text(result)
    result["rows"][1]["processor_share"] = 0.31
    said = benchmark_text(result)
    assert "busy: in 1 of 2 rows the network computed for less than 90%" in said and "31%" in said
    assert "busy" not in benchmark_text(result | {"threads": 2})


def test_a_run_is_printed_and_written_beside_the_model(model, capsys):
    options = ["--against", str(model), "--batch-sizes", "1", "3", "--rounds", "3"]
    options += ["--prepared", "fused", "--threads", "1", "--free-memory", "--quiet"]
    assert main(["benchmark", str(model), *options]) == 0
    said = capsys.readouterr().out
    result = json.loads((model / "speed_results.json").read_text())
    facts = describe_network(CNN(CNNConfig(**SIZES)), (3, 16, 16))
    assert result["model"]["num_multiply_adds"] == facts["num_multiply_adds"]
    assert f"{facts['num_multiply_adds']:,} multiply-adds" in said and "1 thread(s)" in said
    assert "speed over a model" in said and "networks take turns" in said
    assert [row["batch_size"] for row in result["rows"]] == [1, 1, 3, 3]
    for ours, peer in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert ours["peak_bytes"] == peer["peak_bytes"] > 0
        assert ours["latency_ms"]["p50"] <= ours["latency_ms"]["p95"]
        each = zip(peer["processor_seconds"], ours["processor_seconds"], strict=True)
        assert sorted(a / b for a, b in each)[1] == ours["speed_over_peer"][0]
    assert (result["allocator"], result["threads"], result["rounds"]) == ("default", 1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dtypes float16", "--dtypes must be of float32, bfloat16; got 'float16'"),
        ("--prepared folded", "--prepared must be of loaded, fused, "),
        ("--batch-sizes 0", "--batch-sizes must be at least 1; got [0]"),
        ("--batch-sizes x", "--batch-sizes must be whole numbers from 1 on; got 'x'"),
        ("--device tpu", "--device must be cpu or cuda; got 'tpu'"),
        ("--against a a", "--against must name each network once"),
        ("--against timm:no_such_network", "--against timm:no_such_network"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, *, model, capsys):
    assert main(["benchmark", str(model), *options.split()]) == 1
    assert message in capsys.readouterr().err
