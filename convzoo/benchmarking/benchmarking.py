"""Measure how fast a model answers, and write it beside the model, where its card finds it.

convzoo benchmark USER/NAME --against timm:resnet50 --batch-sizes 1 16
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from convzoo.allocator import keep_freed_memory
from convzoo.benchmarking.contestants import (
    DTYPES,
    PREPARATIONS,
    Network,
    cost_of,
    load_peer,
    made_ready,
    shown_name,
)
from convzoo.benchmarking.timing import peak_bytes, ratios, time_in_turns
from convzoo.environment import command_line, provenance
from convzoo.files import SCHEMA_VERSION, write_json
from convzoo.inference import has_bfloat16_instructions
from convzoo.layers import image_shape
from convzoo.model_names import weights_sha256
from convzoo.prediction.classifier import load_classifier
from convzoo.text_table import text_table

FILE = "speed_results.json"
LEAST_SHARE = 0.9  # of the clock's time that a thread computes on a quiet machine


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What is measured.

    Attributes:
        against: other networks: timm:NAME, torchvision:NAME, folders or Hub ids.
        batch_sizes: images of a forward pass.
        dtypes: of DTYPES.
        preparations: of PREPARATIONS.
        rounds: turns of each network.
        threads: of the CPU; those of PyTorch if 0.
        device: cpu or cuda.
        keep_memory: whether the process keeps freed memory, as `convzoo evaluate` does.
        trust_remote_code: run the code that a model on the Hub brings along.
    """

    against: Sequence[str] = ()
    batch_sizes: Sequence[int] = (1, 16)
    dtypes: Sequence[str] = ("float32",)
    preparations: Sequence[str] = ("loaded", "fused")
    rounds: int = 5
    threads: int = 0
    device: str = "cpu"
    keep_memory: bool = True
    trust_remote_code: bool = False


def benchmark_model(name: str, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure a model; what is returned is also written into its folder, if it is one.

    Args:
        name: model folder or Hub id.
        options: what to measure.

    Raises:
        OSError: if a model cannot be read, or the result not be written.
        ValueError: if an option is wrong, or a peer is not there.
    """
    _check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.device == "cpu" and options.keep_memory and keep_freed_memory()
    classifier = load_classifier(name, device="cpu", trust_remote_code=options.trust_remote_code)
    shape = image_shape(classifier.processor)
    networks = [Network(name=shown_name(name), module=classifier.model.float())]
    networks += [
        load_peer(peer, trust_remote_code=options.trust_remote_code) for peer in options.against
    ]
    costs = [cost_of(network, shape) for network in networks]
    rows = list(_rows(networks, shape, options=options))
    result = {
        "schema_version": SCHEMA_VERSION,
        "model": {"sha256": weights_sha256(name), **asdict(costs[0])},
        "peers": {
            network.name: asdict(cost)
            for network, cost in zip(networks[1:], costs[1:], strict=True)
        },
        "image_shape": shape,
        "rounds": options.rounds,
        "threads": torch.get_num_threads() if options.device == "cpu" else None,
        "allocator": ("kept" if kept else "default") if options.device == "cpu" else None,
        "bfloat16_instructions": has_bfloat16_instructions(torch.device(options.device)),
        "rows": rows,
        **provenance(command_line("convzoo")),
    }
    if Path(name).is_dir():
        write_json(Path(name) / FILE, result)
    return result


def benchmark_text(result: dict[str, Any]) -> str:
    """Say a result as a table, for a terminal."""
    environment = result["environment"]
    place = environment["accelerator"] if result["threads"] is None else environment["processor"]
    where = f"{place}, {environment['cpu_capability']}"
    if result["threads"] is not None:
        where += f", {result['threads']} thread(s), freed memory {result['allocator']}"
    where += f", bfloat16 in hardware: {'yes' if result['bfloat16_instructions'] else 'no'}"
    head = ("network", "batch", "type", "prepared", "images/s", "p50 ms", "p95 ms", "peak MB")
    peers = list(result["peers"])
    table = [[*head, *(f"speed over {name}" for name in peers[:1])]]
    for row in result["rows"]:
        over = row["speed_over_peer"]
        table.append(
            [
                *(row["network"], str(row["batch_size"]), row["dtype"], row["preparation"]),
                f"{row['images_per_second']:,.1f}",
                *(f"{row['latency_ms'][key]:,.1f}" for key in ("p50", "p95")),
                f"{row['peak_bytes'] / 1e6:,.1f}",
                *(["{:.2f} [{:.2f}, {:.2f}]".format(*over) if over else ""] if peers else []),
            ]
        )
    costs = {"the model": result["model"], **result["peers"]}
    counted = [
        f"{name}: {cost['num_parameters']:,} parameters, {cost['num_multiply_adds']:,} "
        f"multiply-adds, {cost['num_activations']:,} activations for an image"
        for name, cost in costs.items()
    ]
    note = (
        f"medians of {result['rounds']} rounds, by the clock; loaded is as the library makes it, "
        f"everything else lies channels last"
    )
    if peers:
        note += (
            f"; networks take turns, the speed over {peers[0]} at the same setting is by "
            f"{'GPU' if result['threads'] is None else 'processor'} time [least, most]"
        )
    return "\n".join([where, text_table(table, left=(0, 2, 3)), note, *_busy(result), *counted])


def _busy(result: dict[str, Any]) -> list[str]:
    """Say that the processor was shared, where one thread tells it."""
    shares = [row["processor_share"] for row in result["rows"]]
    if result["threads"] != 1 or min(shares) >= LEAST_SHARE:
        return []
    few = sum(share < LEAST_SHARE for share in shares)
    return [
        f"the processor was busy: in {few} of {len(shares)} rows the network computed for less than"
        f" {LEAST_SHARE:.0%} of the time (down to {min(shares):.0%}), so images/s and ms are too "
        f"slow. Ratios hold; for the rest measure again on a quiet machine"
    ]


def _rows(
    networks: Sequence[Network], shape: Sequence[int], *, options: BenchmarkOptions
) -> Iterator[dict[str, Any]]:
    """Measure all networks in turns at each setting."""
    settings = [
        (dtype, preparation, size)
        for dtype in options.dtypes
        for preparation in options.preparations
        for size in options.batch_sizes
    ]
    generator = torch.Generator().manual_seed(0)
    for dtype, preparation, size in tqdm(settings, desc="benchmark", unit=" settings", leave=False):
        ready: list[nn.Module] = [
            made_ready(each.module, preparation, dtype, device=options.device) for each in networks
        ]
        x = torch.randn(size, *shape, generator=generator).to(options.device, DTYPES[dtype])
        if preparation != "loaded":
            x = x.contiguous(memory_format=torch.channels_last)
        times = time_in_turns(ready, x, rounds=options.rounds)
        for number, (network, each) in enumerate(zip(networks, times, strict=True)):
            yield {
                "network": network.name,
                "is_model": number == 0,
                "batch_size": size,
                "dtype": dtype,
                "preparation": preparation,
                "images_per_second": size / (each.percentile(50) / 1000),
                "latency_ms": {"p50": each.percentile(50), "p95": each.percentile(95)},
                "num_passes": len(each.seconds),
                "processor_seconds": each.processor_seconds,
                "processor_share": each.processor_share if options.device == "cpu" else None,
                "peak_bytes": peak_bytes(ready[number], x),
                "speed_over_peer": ratios(each, times[1]) if number == 0 and times[1:] else None,
            }


def _check_options(options: BenchmarkOptions) -> None:
    choices = {"--dtypes": (options.dtypes, DTYPES), "--prepared": (options.preparations, None)}
    for option, (given, known) in choices.items():
        allowed = list(known or PREPARATIONS)
        if wrong := [each for each in given if each not in allowed]:
            raise ValueError(f"{option} must be of {', '.join(allowed)}; got {wrong[0]!r}")
    if not options.batch_sizes or min(options.batch_sizes) < 1:
        raise ValueError(f"--batch-sizes must be at least 1; got {list(options.batch_sizes)}")
    if options.rounds < 3:
        raise ValueError(f"--rounds must be at least 3, to show a spread; got {options.rounds}")
    if options.threads < 0:
        raise ValueError(f"--threads must be at least 0; got {options.threads}")
    if options.device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda; got {options.device!r}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda needs a GPU that PyTorch sees; there is none. Leave it away"
        )
    if len(set(options.against)) < len(options.against):
        raise ValueError(f"--against must name each network once; got {list(options.against)}")
