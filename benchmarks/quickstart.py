"""Accuracy and time of the quickstart recipe over several seeds, as a result file.

    python benchmarks/quickstart.py --seeds 3

Each seed is a training run and an evaluation in processes of their own, as a user starts them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run the benchmark and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of runs")
    parser.add_argument("--output", default="benchmarks/results/quickstart_2cpu_202611.json")
    args = parser.parse_args()
    runs = [run_once(seed) for seed in range(42, 42 + args.seeds)]
    accuracies = [run["top1_accuracy"] for run in runs]
    write_json(
        ROOT / args.output,
        {
            "what": "recipes/quickstart.toml: a small CNN on the embedded Fashion-MNIST sample",
            **provenance(command_line("python benchmarks/quickstart.py")),
            "n": len(runs),
            "top1_accuracy_mean": round(statistics.mean(accuracies), 4),
            "top1_accuracy_standard_deviation": round(statistics.stdev(accuracies), 4),
            "train_and_evaluate_seconds_median": statistics.median(r["seconds"] for r in runs),
            "runs": runs,
        },
    )
    print(f"{args.output}: {accuracies}")


def run_once(seed: int) -> dict:
    """Train and evaluate with one seed."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "train_accelerate.py"]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "run" / "model"
        overrides = [f"run.output_dir={folder}", "run.name=run", f"run.seed={seed}"]
        evaluate = ["-m", "convzoo", "evaluate", str(model), "--data", "data/fashion-mnist"]
        started = time.perf_counter()
        for command in ([*launch, "recipes/quickstart.toml", *overrides], evaluate):
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        seconds = time.perf_counter() - started
        train = json.loads((model / "train_results.json").read_text())
        (result,) = json.loads((model / "eval_results.json").read_text())["results"]
    return {
        "seed": seed,
        **result["metrics"],
        "num_samples": result["dataset"]["num_samples"],
        "num_parameters": train["num_parameters"],
        "training_images_per_second": train["images_per_second"],
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
