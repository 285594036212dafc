"""From a folder of photographs to a published-ready, explained model: time and accuracy.

    OMP_NUM_THREADS=1 python benchmarks/own_images.py --seeds 3

Each seed is the journey of docs/images.md on data/photos (three classes), a process for each
command, as a user starts them: finetune, evaluate, report, predict, render. A seed also draws other
images for validation, so the accuracies are of different images. Processor time is told beside the
time on the clock, because other programs on the machine change only the latter.
"""

import argparse
import collections
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.evaluation.statistics import wilson_interval
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
DATA = "data/photos"


def main() -> None:
    """Run the benchmark and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of journeys")
    parser.add_argument("--output", default="benchmarks/results/own_images_202611.json")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    runs = [journey(seed) for seed in range(args.seeds)]
    accuracies = [run["top1_accuracy"] for run in runs]
    right, measured = (sum(run[key] for run in runs) for key in ("right", "validation_images"))
    counts = classes()
    write_json(
        ROOT / args.output,
        {
            "what": "the journey of docs/images.md on data/photos, from fresh weights",
            **provenance(command_line("python benchmarks/own_images.py")),
            "threads_of_torch": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "load_average_before": round(load, 1),
            "images_of_classes": counts,
            "share_of_largest_class": round(max(counts.values()) / sum(counts.values()), 4),
            "n": len(runs),
            "top1_accuracy_mean": round(statistics.mean(accuracies), 4),
            "top1_accuracy_standard_deviation": round(statistics.stdev(accuracies), 4),
            "top1_accuracy_of_all": round(right / measured, 4),
            "top1_interval_of_all": [round(x, 4) for x in wilson_interval(right, measured)],
            "processor_seconds_median": statistics.median(r["processor_seconds"] for r in runs),
            "clock_seconds_median": statistics.median(r["clock_seconds"] for r in runs),
            "runs": runs,
        },
    )
    print(f"{args.output}: {accuracies}")


def classes() -> dict[str, int]:
    """Count the images of each class."""
    with (ROOT / DATA / "metadata.csv").open(newline="") as file:
        return dict(collections.Counter(row["label"] for row in csv.DictReader(file)))


def journey(seed: int) -> dict:
    """Go all the way with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "photos" / "model"
        commands = {
            "finetune": ["convzoo", "finetune", DATA, f"run.seed={seed}", "--output", folder],
            "evaluate": ["convzoo", "evaluate", model, "--data", DATA, "--validation-share"],
            "report": ["convzoo", "report", model],
            "predict": ["convzoo", "predict", model, DATA, "--output", f"{folder}/answers.csv"],
            "render": ["hub_cards", "render", model],
        }
        steps = {name: timed(command) for name, command in commands.items()}
        record = json.loads((model / "train_results.json").read_text())
        (result,) = json.loads((model / "eval_results.json").read_text())["results"]
        page = (model / "report.html").stat().st_size
    accuracy, measured = result["metrics"]["top1_accuracy"], result["dataset"]["num_samples"]
    return {
        "seed": seed,
        "top1_accuracy": accuracy,
        "right": round(accuracy * measured),
        "validation_images": measured,
        "num_parameters": record["num_parameters"],
        "report_bytes": page,
        "processor_seconds": round(sum(step["processor_seconds"] for step in steps.values()), 1),
        "clock_seconds": round(sum(step["clock_seconds"] for step in steps.values()), 1),
        "steps": steps,
    }


def timed(command: list) -> dict[str, float]:
    """Run a command; return its seconds on the clock and on the processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-m", *(str(word) for word in command)]
    subprocess.run(words, cwd=ROOT, check=True)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor_seconds": round(used, 1), "clock_seconds": round(clock, 1)}


if __name__ == "__main__":
    main()
