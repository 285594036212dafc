"""Images per second of whole networks on a CPU: as loaded, prepared, in bfloat16, beside the peers.

    PYTHONPATH=. python benchmarks/inference_speed.py --peers FOLDER

FOLDER has timm and its torchvision (`pip install --target FOLDER --no-deps timm torchvision`). The
other peer, onnxruntime, runs our CNNs, exported after fusion, in float32 and statically quantised
to 8 bits. Synthetic images, weights as initialised: for speed they do not matter.
Two processes, one for each allocator, take turns network by network, round after round; each ratio
is taken within a round, over timm's ResNet-50 as it loads (eager, float32) in the same process.
Processor time, so that neighbours on the machine count less.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convzoo.allocator import keep_freed_memory
from convzoo.convolution_kernels import use_kernels
from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.inference import has_bfloat16_instructions
from modeling import CNN, CNNConfig, QLNet, QLNetConfig

PEER = "timm ResNet-50"
OURS: dict[str, Callable[[], Any]] = {
    "CNN, PReLU": partial(CNN, CNNConfig()),
    "CNN, ReLU": partial(CNN, CNNConfig(use_prelu=False)),
    "QLNet": partial(QLNet, QLNetConfig()),
}
PREPARED = {"prepared, float32": torch.float32, "prepared, bfloat16": torch.bfloat16}
ONNX = ("onnxruntime, float32", "onnxruntime, int8")
EXPORTED = ("CNN, PReLU", "CNN, ReLU")
PAIRS = [
    (PEER, "as loaded"),
    (PEER, "fused, bfloat16"),
    *((name, way) for name in OURS for way in ("as loaded", *PREPARED)),
    *((name, way) for name in EXPORTED for way in ONNX),
]
Pair = tuple[str, str]
NETWORKS: dict[Pair, Callable[[Tensor], Any]] = {}  # of this process
TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")


def main() -> None:
    """Time all networks in turn and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peers", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--output", default="benchmarks/results/inference_speed_202611.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder))
        processes = {
            allocator: ProcessPoolExecutor(1, get_context("spawn"), start, (args.peers, allocator))
            for allocator in ("default", "kept")
        }
        for batch_size in args.batch_sizes:
            rows += time_batches(processes, Path(folder), batch_size=batch_size, rounds=args.rounds)
    record = {
        "what": "processor time of classifying images of 224 pixels on one thread; speed over "
        "timm's resnet50 as loaded, with the same allocator, as [median, least, most] of rounds",
        **provenance(
            command_line("PYTHONPATH=. python benchmarks/inference_speed.py").replace(
                str(args.peers), "FOLDER"
            )
        ),
        "bfloat16_instructions": has_bfloat16_instructions(torch.device("cpu")),
        "peers": {
            "timm": processes["kept"].submit(peer_version).result(),
            "onnxruntime": version("onnxruntime"),
        },
        "n": args.rounds,
        "threads": 1,
        "rows": rows,
    }
    write_json(Path(args.output), record)
    for process in processes.values():
        process.shutdown()


def time_batches(
    processes: dict[str, ProcessPoolExecutor], folder: Path, *, batch_size: int, rounds: int
) -> list[dict[str, Any]]:
    """Time a batch of each network in each process, round after round."""
    seconds: dict[tuple[str, Pair], list[float]] = {}
    for number in range(rounds + 1):
        for pair in PAIRS:
            for allocator, process in processes.items():
                taken = process.submit(classify, pair, batch_size, folder).result()
                if number:  # the first one warms up
                    seconds.setdefault((allocator, pair), []).append(taken)
        print(f"batch size {batch_size}: round {number} of {rounds}", flush=True)
    rows = []
    for (allocator, pair), times in seconds.items():
        peer = seconds[allocator, PAIRS[0]]
        ratios = sorted(a / b for a, b in zip(peer, times, strict=True))
        spread = (statistics.median(ratios), ratios[0], ratios[-1])
        rows.append(
            {
                "network": pair[0],
                "way": pair[1],
                "batch_size": batch_size,
                "allocator": allocator,
                "images_per_second": round(batch_size / statistics.median(times), 2),
                "speed_over_peer": [round(ratio, 2) for ratio in spread],
            }
        )
    return rows


def start(peers: Path, allocator: str) -> None:
    """Prepare a process that classifies."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if allocator == "kept":
        keep_freed_memory()
    sys.path.append(str(peers))
    if torch.__version__.endswith("+cpu"):  # it lacks the operators of torchvision's usual wheel
        for name in ("nms", "qnms"):
            TORCHVISION.define(f"{name}(Tensor d, Tensor s, float t) -> Tensor")


def peer_version() -> str:
    """Version of timm."""
    return str(import_module("timm").__version__)


def classify(pair: Pair, batch_size: int, folder: Path) -> float:
    """Classify a batch, or three times a single image, processor seconds for one batch."""
    if pair not in NETWORKS:
        NETWORKS[pair] = build(*pair, folder)
    pixel_values = torch.randn(batch_size, 3, 224, 224)
    if "bfloat16" in pair[1]:
        pixel_values = pixel_values.bfloat16()
    repeats = 3 if batch_size == 1 else 1
    network = NETWORKS[pair]
    with torch.inference_mode():
        begin = time.process_time()
        for _ in range(repeats):
            network(pixel_values)
    return (time.process_time() - begin) / repeats


def build(name: str, way: str, folder: Path) -> Callable[[Tensor], Any]:
    """Make a network in evaluation mode, prepared in a way."""
    if way in ONNX:
        return open_session(folder / f"{name}, {way}.onnx")
    if name == PEER:
        peer: nn.Module = import_module("timm").create_model("resnet50").eval()
        return peer if way == "as loaded" else fold_peer(peer)
    model = OURS[name]().eval()
    if way in PREPARED:  # as convzoo.inference.prepare does, which also tells the allocator
        model.fuse().to(PREPARED[way]).to(memory_format=torch.channels_last)
        use_kernels(model)
    return model


def fold_peer(network: nn.Module) -> Callable[[Tensor], Any]:
    """Fold timm's batch norms by PyTorch's own function, in bfloat16 and channels last."""
    for parent in list(network.modules()):
        for conv, bn in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            if isinstance(getattr(parent, bn, None), nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, bn))
                setattr(parent, conv, fused)
                setattr(parent, bn, nn.Identity())
    layout: Any = {"memory_format": torch.channels_last}
    network.to(torch.bfloat16).to(**layout)
    return lambda x: network(x.contiguous(**layout))


def export(folder: Path) -> None:
    """Export the fused CNNs, in float32 and with weights and maps quantised to 8 bits."""
    quantization: Any = import_module("onnxruntime.quantization")
    torch.manual_seed(0)
    images = torch.randn(8, 3, 224, 224)
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    for name in EXPORTED:
        model, paths = OURS[name]().eval().fuse(), [folder / f"{name}, {way}.onnx" for way in ONNX]
        torch.onnx.export(model, (images[:2],), paths[0], dynamo=True, dynamic_shapes=shapes)
        quantization.quantize_static(*paths, Images(images), per_channel=True)


class Images:
    """The images that quantisation finds the ranges of maps with, one by one."""

    def __init__(self, images: Tensor):
        self.batches = iter(images.split(1))

    def get_next(self) -> dict[str, Any] | None:
        """Give the next image to onnxruntime, None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch.numpy()}


def open_session(path: Path) -> Callable[[Tensor], Any]:
    """Open an exported network in onnxruntime, on one thread."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"pixel_values": x.numpy()})


if __name__ == "__main__":
    main()
