"""Processor time of the same commands in two checkouts, in turns: what a change of the code costs.

    git worktree add ../before COMMIT
    python benchmarks/two_checkouts.py ../before --data FOLDER

Both checkouts run with this Python and its libraries. FOLDER has images in parquet files with a
split "train". Where the input is measured, the network is as small as it can be.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
SMALL = """
[model]
model_type = "cnn"
stem = "small"
embedding_size = 16
hidden_sizes = [16, 16]
depths = [1, 1]
bottleneck_expansion = 1
[train]
global_batch_size = 20
log_every_steps = 1000
"""
INPUT = """
[augmentation]
policy = "rand-m9-mstd0.5"
erasing = 0.25
"""
LARGE = """
[train]
global_batch_size = 8
log_every_steps = 1000
"""


def main() -> None:
    """Run every command in both checkouts, several rounds, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--data", required=True, type=Path, help="folder of parquet files")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command")
    parser.add_argument("--output", default="benchmarks/results/two_checkouts_202611.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        commands = make_commands(Path(scratch), args.data.resolve())
        seconds = {name: {"before": [], "after": []} for name in commands}
        for number in range(args.rounds):
            for name, command in commands.items():
                pair = [("before", args.before.resolve()), ("after", ROOT)]
                for which, checkout in pair if number % 2 else reversed(pair):
                    output = Path(scratch) / f"{which}-{number}-{len(seconds[name][which])}"
                    seconds[name][which].append(processor_seconds(command, checkout, output=output))
    results = {name: compare(times) for name, times in seconds.items()}
    for name, result in results.items():
        low, high = result["ratio_range"]
        print(f"{name:22} after / before {result['ratio']:.3f} [{low:.3f}, {high:.3f}]")
    commit = subprocess.run(
        ["git", "-C", str(args.before), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    write_json(
        Path(args.output),
        {
            "what": "processor seconds of whole processes, in turns; ratios are after / before",
            **provenance(command_line("python benchmarks/two_checkouts.py")),
            "before": commit.stdout.strip(),
            "n": args.rounds,
            "results": results,
        },
    )


def make_commands(scratch: Path, data: Path) -> dict[str, list[str]]:
    """Return what is measured: name -> arguments of Python, OUTPUT standing for a new folder."""
    path = f'[data]\npath = "{data}"\nnum_workers = 0\n'
    recipes = {
        "input of 400 images": SMALL + INPUT + path + "[preprocessing]\nresize = 256\ncrop = 224\n",
        "3 steps of the CNN": LARGE + path,
    }
    epochs = {"input of 400 images": 2.0, "3 steps of the CNN": 0.12}
    commands = {
        "import modeling": ["-c", "import modeling"],
        "convzoo --help": ["-m", "convzoo", "--help"],
        "hub_cards --help": ["-m", "hub_cards", "--help"],
    }
    for number, (name, text) in enumerate(recipes.items()):
        recipe = scratch / f"recipe{number}.toml"
        recipe.write_text(text, encoding="utf-8")
        script = ["train_accelerate.py", str(recipe), f"train.epochs={epochs[name]}"]
        commands[name] = [*script, "run.output_dir=OUTPUT"]
    return commands


def processor_seconds(command: list[str], checkout: Path, *, output: Path) -> float:
    """Run a command of a checkout; returns user and system seconds of it and its children."""
    command = [part.replace("OUTPUT", str(output)) for part in command]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command],
        check=True,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(times: dict[str, list[float]]) -> dict:
    """Return medians and the ratio of each round: its median and its range."""
    ratios = [b / a for a, b in zip(times["before"], times["after"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "median_seconds": {which: round(statistics.median(s), 3) for which, s in times.items()},
    }


if __name__ == "__main__":
    main()
