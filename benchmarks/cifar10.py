"""The families on CIFAR-10 under the same loop, several seeds, one result file for each model.

    python benchmarks/cifar10.py --data FOLDER --models cnn_prelu cnn_relu resnet --seeds 3
    python benchmarks/cifar10.py --data FOLDER --models cnn_prelu_growing --epochs 22 --processes 2

A CPU-sized version of the CIFAR-10 recipes: a smaller network, few epochs, one thread for each
process, most of them compiled. `cnn_prelu_growing` is `cnn_prelu` with crops that grow. Each seed
is a training run of its own, evaluated at its end on all test images; its CPU time includes the
start, the compilation and the evaluation. `resnet` is Transformers' ResNet with the layers and
widths of `cnn_relu`, trained by the same loop with the same recipe: an outside reference. FOLDER
holds CIFAR-10 as parquet, or is a Hub id; the result file says which data it was. The file is
written after each seed, and seeds that it has with the same settings and data are not repeated.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convzoo.data.opening import open_split
from convzoo.environment import command_line, provenance
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
SCHEDULE = [
    *("train.global_batch_size=128", "optimizer.learning_rate=0.1", "schedule.warmup_epochs=1"),
    *("train.evaluate_every_epochs=0", "train.checkpoint_every_epochs=1", "data.num_workers=0"),
    *("augmentation.erasing=0.0", "train.label_smoothing=0.0", "train.eval_batch_size=500"),
    "train.compile=true",
]
CNN = [
    *("model.embedding_size=16", "model.hidden_sizes=[32, 64, 128, 256]"),
    *("model.depths=[1, 1, 2, 2]", "model.bottleneck_expansion=2"),
]
NARROW = ["model.embedding_size=16", "model.hidden_sizes=[16, 32, 64]", "model.depths=[1, 1, 1]"]
SMALL_ALEXNET = ["model.hidden_sizes=[32, 64, 96, 64, 64]", "model.classifier_hidden_size=256"]
OURS, THEIRS = "train_accelerate.py", "benchmarks/reference_resnet.py"
# Script, recipe and overrides of each model.
MODELS = {
    "cnn_prelu": (OURS, "cifar10_cnn_prelu", CNN),
    "cnn_prelu_growing": (
        *(OURS, "cifar10_cnn_prelu"),
        [*CNN, "augmentation.first_crop=20", "augmentation.growing_epochs=14"],
    ),
    "cnn_relu": (OURS, "cifar10_cnn_relu", CNN),
    "resnet": (THEIRS, "cifar10_reference", CNN),
    # On CPUs its depthwise convolutions are slower compiled.
    "qlnet": (OURS, "cifar10_qlnet", [*NARROW, "train.compile=false"]),
    "alexnet": (
        *(OURS, "cifar10_alexnet"),
        [*SMALL_ALEXNET, "train.global_batch_size=32", "optimizer.learning_rate=0.02"],
    ),
}


def main() -> None:
    """Train every model with every seed; write a result file after each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as parquet, or a Hub id")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3, help="number of runs")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=1, help="of one thread each")
    parser.add_argument("--output", default="benchmarks/results/cifar10_{model}_cpu_202611.json")
    args = parser.parse_args()
    for model in args.models:
        path = ROOT / args.output.format(model=model)
        for seed in range(42, 42 + args.seeds):
            known = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
            settings = [*SCHEDULE, *MODELS[model][2], f"train.epochs={args.epochs:g}"]
            where = Path(args.data).name
            runs = [
                run
                for run in known
                if run["overrides"] == settings
                and run["dataset"]["path"] == where
                and run.get("num_processes", 1) == args.processes
            ]
            if seed not in [run["seed"] for run in runs]:
                runs.append(
                    run_once(model, args.data, settings, seed=seed, processes=args.processes)
                )
                write_json(path, record(model, args.epochs, runs))
        print(model, [run["top1_accuracy"] for run in runs], flush=True)


def record(model: str, epochs: float, runs: list[dict]) -> dict:
    """The result file of some runs."""
    accuracies = [run["top1_accuracy"] for run in runs]
    spread = round(statistics.stdev(accuracies), 4) if len(runs) > 1 else None
    threads = runs[-1].get("num_processes", 1)
    threads = "one CPU thread" if threads == 1 else f"{threads} CPU threads"
    compiled = "" if "train.compile=false" in MODELS[model][2] else ", torch.compile"
    return {
        "what": f"{model} on CIFAR-10, {epochs:g} epochs, {threads}{compiled}",
        **provenance(command_line("python benchmarks/cifar10.py")),
        "n": len(runs),
        "top1_accuracy_mean": round(statistics.mean(accuracies), 4),
        "top1_accuracy_standard_deviation": spread,
        "runs": runs,
    }


def run_once(model: str, data: str, settings: list[str], *, seed: int, processes: int) -> dict:
    """Train with one seed; the last line of the log has the validation accuracy."""
    script, name, _ = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / f"{name}.toml"
        recipe.write_text(recipe_text(name), encoding="utf-8")
        several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
        command = [sys.executable, "-m", "accelerate.commands.launch", "-q", *several]
        command += ["--num_processes", str(processes), "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        command += [script, str(recipe), *settings]
        command += [f"data.path={data}", f"run.seed={seed}"]
        start, cpu_start = time.perf_counter(), cpu_seconds()
        subprocess.run(
            [*command, f"run.output_dir={folder}"],
            cwd=ROOT,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )
        results = json.loads((Path(folder) / name / "model" / "train_results.json").read_text())
        log = (Path(folder) / name / "metrics.jsonl").read_text().splitlines()
    held_out = [line for line in map(json.loads, log) if "eval_top1_accuracy" in line][-1]
    return {
        "seed": seed,
        "top1_accuracy": held_out["eval_top1_accuracy"],
        "loss": held_out["eval_loss"],
        "num_parameters": results["num_parameters"],
        "num_processes": results["num_processes"],
        "mixed_precision": results["mixed_precision"],
        "dataset": results["dataset"] | {"path": Path(data).name},
        "num_samples": open_split(data, "test").num_rows,
        "training_seconds": results["duration_seconds"],
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(cpu_seconds() - cpu_start, 1),
        "overrides": settings,
    }


def cpu_seconds() -> float:
    """CPU time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def recipe_text(name: str) -> str:
    """A recipe of recipes/; for the reference, that of `cifar10_cnn_relu` with its network."""
    if name != "cifar10_reference":
        return (ROOT / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    text = (ROOT / "recipes" / "cifar10_cnn_relu.toml").read_text(encoding="utf-8")
    rest = text[text.index("[data]") :]
    return f'[model]\nmodel_type = "small_stem_resnet"\n\n{rest}'


if __name__ == "__main__":
    main()
