"""Processor time of a training step with each monitor, relative to none.

python benchmarks/monitor_overhead.py

All variants take turns in one process, each with a model of its own. With every_steps = 1 every
step is looked at; what a look costs beyond a step is divided by 100 for every_steps = 100, which
"all, between looks" checks: nothing is looked at, so it must take as long as none.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.images.mixing import MixupCutmix
from convzoo.recipe.settings import MONITORS
from convzoo.training.monitors import Monitors
from modeling import CNN, CNNConfig

EVERY = 100


class Variant:
    """A model, its optimizer and its monitors."""

    def __init__(self, names, folder, every_steps):
        torch.manual_seed(0)
        self.model = CNN(  # type: ignore[call-arg]  # a field of the base
            CNNConfig(  # type: ignore[call-arg]
                num_labels=10,
                num_channels=1,
                stem="small",
                embedding_size=16,
                hidden_sizes=[32, 64, 128],
                depths=[1, 1, 1],
            )
        ).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.mix = MixupCutmix(
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            probability=1.0,
            switch_probability=0.5,
            label_smoothing=0.1,
            num_labels=10,
        )
        folder.mkdir()
        self.monitors = Monitors(self.model, names, every_steps=every_steps, folder=folder)
        self.step, self.seconds = 1, []  # the first step would be looked at

    def run(self, pixels, labels):
        """One training step, timed."""
        start = time.process_time()
        self.monitors.begin(self.step)
        self.step += 1
        mixed, targets = self.mix(pixels, labels, np.random.default_rng(self.step))
        self.monitors.mixing(self.mix.drawn)
        with self.monitors.watching():
            F.cross_entropy(self.model(mixed).logits, targets).backward()
        self.monitors.after_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.monitors.end()
        self.seconds.append(time.process_time() - start)


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each variant")
    parser.add_argument("--batch", type=int, default=64, help="images of 28 x 28 in a step")
    parser.add_argument("--output", default="benchmarks/results/monitor_overhead_202611.json")
    args = parser.parse_args()
    pixels = torch.randn(args.batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (args.batch,))
    chosen = {"none": ()} | {name: (name,) for name in MONITORS} | {"all": MONITORS}
    with tempfile.TemporaryDirectory() as folder:
        variants = {name: Variant(names, Path(folder, name), 1) for name, names in chosen.items()}
        idle = "all, between looks"
        variants[idle] = Variant(MONITORS, Path(folder, idle), 10**9)
        for _ in range(args.steps + 3):
            for variant in variants.values():
                variant.run(pixels, labels)
        lines = (Path(folder, "all") / "monitors.jsonl").read_text().splitlines()
        line_bytes = statistics.mean(map(len, lines))
    base = np.array(variants["none"].seconds[3:])
    results = {}
    for name, variant in variants.items():
        # Ratio to the neighbouring step without monitors, so that a slow moment hits both.
        ratios = np.array(variant.seconds[3:]) / base
        low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
        results[name] = {
            "step_ms": round(1e3 * statistics.median(variant.seconds[3:]), 2),
            "relative": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
        if variant.monitors.names and name != idle:
            results[name][f"relative_every_{EVERY}"] = round(1 + (middle - 1) / EVERY, 4)
        print(name, results[name])
    write_json(
        Path(args.output),
        {
            "what": "processor time of a step with a monitor over that without, medians of "
            f"{args.steps} interleaved steps of {args.batch} images, each looked at; "
            f"relative_every_{EVERY} is computed from it, as steps between looks do nothing",
            **provenance(command_line("python benchmarks/monitor_overhead.py")),
            "torch_threads": torch.get_num_threads(),
            "steps": args.steps,
            "parameters": sum(p.numel() for p in variants["none"].model.parameters()),
            "bytes_per_look_all": round(line_bytes),
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
