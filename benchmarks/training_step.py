"""Where a training step's time goes, and the same step as the peers' examples run it.

    PYTHONPATH=. python benchmarks/training_step.py

Synthetic images of 224 pixels. Each family's published network takes the step of
train_accelerate.py on a CPU: channels last, freed memory kept, no gradients that batch norms
cancel, mean-over-batch cross entropy, SGD with momentum. Forward, backward and optimizer are timed
apart, and so is what comes before: random crops of the embedded photographs, normalised.

The peer is Transformers' ResNet-50 as its examples train it (default memory format, default
allocator), and with our settings. Our CNN with ReLU is the same network but for residual scales.
`--networks` chooses some, of which the first is the peer. timm's ResNet-50 needs `--peers FOLDER`
(`pip install --target FOLDER --no-deps timm torchvision`).
How much faster a step is depends on the processor: name it in the name of the result file.
Two processes, one for each allocator, take turns network by network, round after round. With one
thread and fewer than 16 images PyTorch runs 1x1 convolutions by another, slower path.
"""

import argparse
import itertools
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from convzoo.allocator import keep_freed_memory
from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.images.decoding import open_for_cropping
from convzoo.images.normalize import Normalize
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.training.finetuning import freeze_cancelled_biases
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig

PARTS = ("forward", "backward", "optimizer")
PEER = "Transformers ResNet-50"
PRELU = partial(CNN, CNNConfig())
PLAIN = "CNN, PReLU of PyTorch"
RELU = partial(CNN, CNNConfig(use_prelu=False))
RESNET = partial(ResNetForImageClassification, ResNetConfig(num_labels=1000))  # type: ignore[call-arg]
TIMM = "timm ResNet-50, our settings"
TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
# Name -> network, and whether it runs with our settings, and compiled.
NETWORKS = {
    PEER: (RESNET, False, False),
    f"{PEER}, compiled": (RESNET, False, True),
    f"{PEER}, our settings": (RESNET, True, False),
    f"{PEER}, our settings, compiled": (RESNET, True, True),
    TIMM: (lambda: import_module("timm").create_model("resnet50"), True, False),
    "CNN, ReLU": (RELU, True, False),
    "CNN, ReLU, compiled": (RELU, True, True),
    "CNN, PReLU": (PRELU, True, False),
    PLAIN: (PRELU, True, False),
    "CNN, PReLU, compiled": (PRELU, True, True),
    "AlexNet": (partial(AlexNet, AlexNetConfig()), True, False),
    "QLNet": (partial(QLNet, QLNetConfig()), True, False),
    "QLNet, compiled": (partial(QLNet, QLNetConfig()), True, True),
}


def main() -> None:
    """Time all networks in turn and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each network")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--peers", type=Path, metavar="FOLDER")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", default="benchmarks/results/training_step_avx2_202611.json")
    args = parser.parse_args()
    if not args.networks:
        args.networks = [name for name in NETWORKS if args.peers or name != TIMM]
    processes = {
        ours: ProcessPoolExecutor(1, get_context("spawn"), start, (ours, args.threads, args.peers))
        for ours in (False, True)
    }
    photos = [path.read_bytes() for path in sorted(Path("data/photos").glob("*.jpg"))]
    seconds, data_seconds = {name: [] for name in args.networks}, []
    for number in range(args.rounds + 1):
        data_seconds.append(processes[True].submit(prepare, photos).result())
        for name in args.networks:
            process = processes[NETWORKS[name][1]]
            times = process.submit(take_step, name, args.batch_size, args.precision).result()
            if number:  # the first one warms up
                seconds[name].append(times)
    for process in processes.values():
        process.shutdown()
    rows = []
    for name, times in seconds.items():
        totals = [sum(each) for each in times]
        peer = [sum(each) for each in seconds[args.networks[0]]]
        ratios = sorted(a / b for a, b in zip(peer, totals, strict=True))
        spread = (statistics.median(ratios), ratios[0], ratios[-1])
        rows.append(
            {
                "network": name,
                "images_per_second": round(args.batch_size / statistics.median(totals), 2),
                "milliseconds_per_image": {
                    part: round(1000 * statistics.median(column) / args.batch_size, 1)
                    for part, column in zip(PARTS, zip(*times, strict=True), strict=True)
                },
                "speed_over_peer": [round(ratio, 2) for ratio in spread],
            }
        )
        print(rows[-1], flush=True)
    write_json(
        Path(args.output),
        {
            "what": f"processor time of a training step, {args.precision}; speed over the first "
            "network, as [median, least, most] of the rounds",
            **provenance(
                command_line("PYTHONPATH=. python benchmarks/training_step.py").replace(
                    str(args.peers), "FOLDER"
                )
            ),
            "n": args.rounds,
            "batch_size": args.batch_size,
            "threads": args.threads,
            "data_milliseconds_per_image": round(
                1000 * statistics.median(data_seconds[1:]) / len(photos), 1
            ),
            "images": f"{len(photos)} photographs, "
            f"{sum(map(len, photos)) / len(photos) / 1000:.0f} kB on average",
            "rows": rows,
        },
    )


def prepare(photos: list[bytes]) -> float:
    """Decode, crop, flip and normalise images as training does, processor seconds."""
    settings = Preprocessing()
    transform = TrainTransform(Augmentation(), settings)
    normalize = Normalize(
        rescale_factor=settings.rescale_factor, mean=settings.mean, std=settings.std
    )
    start = time.process_time()
    crops = [
        transform(open_for_cropping(photo), sample_rng(0, number))
        for number, photo in enumerate(photos)
    ]
    normalize(torch.from_numpy(np.stack(crops)))
    return time.process_time() - start


STEPS = {}  # of this process


def start(ours: bool, threads: int, peers: Path | None) -> None:
    """Prepare a process that takes steps."""
    torch.set_num_threads(threads)
    if peers:
        sys.path.append(str(peers))
        for name in ("nms", "qnms"):  # operators that torchvision lacks beside a PyTorch for CPUs
            TORCHVISION.define(f"{name}(Tensor d, Tensor s, float t) -> Tensor")
    if ours:
        keep_freed_memory()


def take_step(name: str, batch_size: int, precision: str) -> tuple[float, ...]:
    """Forward, backward and optimizer of one network, processor seconds."""
    if name not in STEPS:
        STEPS[name] = Step(name, batch_size, precision)
    return STEPS[name]()


class Step:
    """A training step of one network; calling it gives the seconds of its parts."""

    def __init__(self, name: str, batch_size: int, precision: str):
        build, ours, compiled = NETWORKS[name]
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        layout = torch.channels_last if ours else torch.contiguous_format
        self.model = build()
        if name == PLAIN:
            for module in self.model.modules():
                if isinstance(module, torch.nn.PReLU):
                    module.__class__ = torch.nn.PReLU
        self.model.train().to(memory_format=layout)
        if ours:
            freeze_cancelled_biases(self.model)
        if compiled:
            self.model.compile()
        self.pixel_values = torch.randn(batch_size, 3, 224, 224).to(memory_format=layout)
        self.labels = torch.arange(batch_size)
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)

    def __call__(self) -> tuple[float, ...]:
        """Forward, backward and optimizer, processor seconds."""
        marks = [time.process_time()]
        with self.autocast:
            output = self.model(self.pixel_values)
            loss = F.cross_entropy(getattr(output, "logits", output), self.labels)
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(time.process_time())
        return tuple(end - start for start, end in itertools.pairwise(marks))


if __name__ == "__main__":
    main()
