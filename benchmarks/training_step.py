"""Where a training step's time goes, and the same step as the peers' examples run it.

    python benchmarks/training_step.py

Synthetic pictures of 224 pixels, so decoding plays no part. Each family's published network takes
one step of train_accelerate.py's kind (channels last, mean-over-batch cross entropy, SGD with
momentum); forward, backward and optimizer are timed apart. The peer is Transformers' ResNet-50 as
its examples train it (default memory format); our CNN with ReLU is the same network but for the
residual scales and the biases of its convolutions. The networks take turns, round after round.
With one thread and fewer than 16 pictures PyTorch runs 1x1 convolutions by another, slower path.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import ResNetConfig, ResNetForImageClassification

from convzoo.environment import command_line, describe_environment, now, write_json
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig

PARTS = ("forward", "backward", "optimizer")


PEER = "Transformers ResNet-50"


def networks() -> dict[str, tuple[torch.nn.Module, bool, bool]]:
    """Name -> network, whether it runs in channels-last memory, and compiled."""
    peer = partial(ResNetForImageClassification, ResNetConfig(num_labels=1000))
    return {
        "CNN, PReLU": (CNN(CNNConfig()), True, False),
        "CNN, ReLU": (CNN(CNNConfig(use_prelu=False)), True, False),
        "AlexNet": (AlexNet(AlexNetConfig()), True, False),
        "QLNet": (QLNet(QLNetConfig()), True, False),
        PEER: (peer(), False, False),
        f"{PEER}, channels last": (peer(), True, False),
        "CNN, PReLU, compiled": (CNN(CNNConfig()), True, True),
        "CNN, ReLU, compiled": (CNN(CNNConfig(use_prelu=False)), True, True),
        "QLNet, compiled": (QLNet(QLNetConfig()), True, True),
        f"{PEER}, compiled": (peer(), False, True),
        f"{PEER}, channels last, compiled": (peer(), True, True),
    }


def main() -> None:
    """Time all networks in turn and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each network")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="benchmarks/results/training_step_cpu_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = {}
    for name, (model, channels_last, compiled) in networks().items():
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model.train().to(memory_format=layout)
        if compiled:
            model.compile()
        steps[name] = Step(
            model, torch.randn(args.batch_size, 3, 224, 224).to(memory_format=layout)
        )
    seconds = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        for name, step in steps.items():
            times = step()
            if number:  # the first one warms up
                seconds[name].append(times)
    rows = []
    for name, times in seconds.items():
        totals = [sum(each) for each in times]
        peer = [sum(each) for each in seconds[PEER]]
        ratios = sorted(a / b for a, b in zip(peer, totals, strict=True))
        rows.append(
            {
                "network": name,
                "images_per_second": round(args.batch_size / statistics.median(totals), 2),
                "milliseconds_per_image": {
                    part: round(1000 * statistics.median(column) / args.batch_size, 1)
                    for part, column in zip(PARTS, zip(*times, strict=True), strict=True)
                },
                "speed_over_peer": [
                    round(statistics.median(ratios), 2),
                    *map(_round, (ratios[0], ratios[-1])),
                ],
            }
        )
        print(rows[-1], flush=True)
    write_json(
        Path(args.output),
        {
            "what": "processor time of a training step, float32; speed over Transformers' "
            "ResNet-50 as [median, least, most] of the rounds",
            "command": command_line("PYTHONPATH=. python benchmarks/training_step.py"),
            "date": now(),
            "environment": describe_environment(),
            "n": args.rounds,
            "batch_size": args.batch_size,
            "threads": args.threads,
            "rows": rows,
        },
    )


class Step:
    """A training step of one network; calling it gives the seconds of its parts."""

    def __init__(self, model: torch.nn.Module, pixel_values: torch.Tensor):
        self.model = model
        self.pixel_values = pixel_values
        self.labels = torch.arange(len(pixel_values))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self) -> tuple[float, ...]:
        """Forward, backward and optimizer, processor seconds."""
        marks = [time.process_time()]
        loss = F.cross_entropy(self.model(self.pixel_values).logits, self.labels)
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(time.process_time())
        return tuple(end - start for start, end in zip(marks, marks[1:], strict=False))


def _round(value):
    return round(value, 2)


if __name__ == "__main__":
    main()
