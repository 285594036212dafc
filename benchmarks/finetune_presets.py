"""The presets of `convzoo finetune` against their neighbours: one setting changed at a time.

    python benchmarks/finetune_presets.py --cifar10 FOLDER --seeds 3 --first FOLDER

FOLDER of --cifar10 holds CIFAR-10 as parquet. A small CNN learns five of its classes (it is kept in
the folder of --first); from there it is fine-tuned on 250 and on 2,500 images of the other five,
and measured on 2,000 of their test images. Fresh networks learn the embedded photographs, of which
a fifth measures (22 images: a difference of one is 4.5 points). Each training is a process of its
own, with the recipe that `convzoo finetune --only-recipe` writes; what is compared is set in all of
them, so the results stay what they are when a preset changes. The result file is written after each
of them, and what it has is not repeated.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "finetune_presets_202611.json"
FIRST_FIVE = ["airplane", "automobile", "bird", "cat", "deer"]
LAST_FIVE = ["dog", "frog", "horse", "ship", "truck"]
ONCE = ["train.evaluate_every_epochs=0", "train.checkpoint_every_epochs=0", "data.num_workers=0"]
NETWORK = [
    *("model.stem=small", "model.embedding_size=16", "model.hidden_sizes=[32, 64, 128]"),
    *("model.depths=[1, 1, 1]", "model.bottleneck_expansion=2", "model.conv_bias=false"),
]
PRETRAINING = [
    *(f"data.classes={json.dumps(FIRST_FIVE)}", "train.epochs=5", "augmentation.crop=padded"),
    *("preprocessing.resize=32", "preprocessing.crop=32", "train.global_batch_size=128"),
    *("preprocessing.mean=[0.4914, 0.4822, 0.4465]", "preprocessing.std=[0.247, 0.2435, 0.2616]"),
]
# What all trainings of a start have in common, and what each changes of it.
TRAINED = {"learning_rate": 0.03, "layer_decay": 0.7}
COMMON: dict[tuple[str, str], dict[str, float]] = {
    ("fresh", "photographs"): {"learning_rate": 0.05, "epochs": 120},
    ("trained", "250 of CIFAR-10"): TRAINED | {"frozen_stages": 1, "epochs": 24},
    ("trained", "2500 of CIFAR-10"): TRAINED | {"frozen_stages": 0, "epochs": 3},
}
EPOCHS: list[dict[str, float]] = [{}, {"epochs": 10}, {"epochs": 30}, {"epochs": 60}]
NEIGHBOURS: list[dict[str, float]] = [{}, {"learning_rate": 0.1}, {"layer_decay": 1}]
CHANGES: dict[tuple[str, str], list[dict[str, float]]] = {
    ("fresh", "photographs"): EPOCHS,
    ("trained", "250 of CIFAR-10"): [
        {"frozen_stages": 2, "layer_decay": 1},
        *NEIGHBOURS,
        {"learning_rate": 0.01},
        {"frozen_stages": 0},
        {"epochs": 12},
        {"epochs": 48},
    ],
    ("trained", "2500 of CIFAR-10"): [
        {"epochs": 6, "layer_decay": 1},
        {"epochs": 6},
        *NEIGHBOURS,
    ],
}
KEYS = {
    "learning_rate": "optimizer.learning_rate",
    "layer_decay": "finetune.layer_decay",
    "frozen_stages": "finetune.frozen_stages",
    "epochs": "train.epochs",
}


def main() -> None:
    """Measure what the result file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cifar10", required=True, help="folder with CIFAR-10 as parquet")
    parser.add_argument("--first", required=True, help="folder for the network that others go from")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs of each")
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.is_file() else []
    first = pretrain(args.cifar10, Path(args.first))
    with tempfile.TemporaryDirectory() as folder:
        for case in experiments(range(42, 42 + args.seeds)):
            if not any(case.items() <= run.items() for run in known):
                known.append(case | measure(case, args.cifar10, first=first, work=Path(folder)))
                write_json(RESULTS, record(known, first["top1_accuracy"]))


def experiments(seeds: range) -> Iterator[dict]:
    """Start, images, changed settings, all settings and seed of each training."""
    for seed in seeds:
        for (start, images), changes in CHANGES.items():
            for change in changes:
                yield {
                    "start": start,
                    "images": images,
                    "change": " ".join(f"{key}={value:g}" for key, value in change.items()),
                    "settings": COMMON[start, images] | change,
                    "seed": seed,
                }


def pretrain(data: str, work: Path) -> dict:
    """Train the network that the others start from, unless it is there."""
    folder = work / "first"
    if not (folder / "model").is_dir():
        work.mkdir(parents=True, exist_ok=True)
        recipe = work / "first.toml"
        recipe.write_text("")
        settings = [f"data.path={data}", *NETWORK, *PRETRAINING, *ONCE, "data.eval_split=test"]
        settings += ["train.label_smoothing=0.1", "optimizer.nesterov=true"]
        settings += ["schedule.warmup_epochs=1", "optimizer.weight_decay=5e-4"]
        train(recipe, [*settings, "run.name=first"], work=work)
    return last_evaluation(folder) | {"model": folder / "model"}


def measure(case: dict, data: str, *, first: dict, work: Path) -> dict:
    """Write the recipe of a case, train with it, and return what came of it."""
    photographs = case["images"] == "photographs"
    if not photographs:  # the preset must see how many images there are
        data = few_images(data, int(case["images"].split()[0]), seed=case["seed"], work=work)
    name = f"{case['start']}-{case['images'].split()[0]}-{case['seed']}"
    command = ["finetune", "data/photos" if photographs else data, "--only-recipe", "--quiet"]
    command += ["--output", str(work), f"run.name={name}", f"run.seed={case['seed']}", *ONCE]
    if not photographs:
        command += ["data.eval_limit=2000"]
    if case["start"] == "trained":
        command += ["--from", str(first["model"])]
    recipe = work / f"{name}.toml"
    if not recipe.is_file():
        run("-m", "convzoo", *command)
    settings = [f"{KEYS[key]}={value}" for key, value in case["settings"].items()]
    return train(recipe, [*settings, f"run.name={name}-run"], work=work)


def few_images(data: str, count: int, *, seed: int, work: Path) -> str:
    """Write so many training images of the last five classes, and their test images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = work / f"last-five-{count}-{seed}"
    if folder.is_dir():
        return str(folder)
    import numpy as np

    folder.mkdir()
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        files = sorted(Path(data).glob(f"{split}-*.parquet"))
        table = pa.concat_tables([pq.read_table(file) for file in files])
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        labels = table["label"].to_numpy()
        names = features["label"]["names"]
        rows = []
        for name in LAST_FIVE:
            of_class = np.flatnonzero(labels == names.index(name))
            rows.append(draw.permutation(of_class)[: count // 5] if split == "train" else of_class)
        chosen = table.take(np.sort(np.concatenate(rows)))
        new = pa.array([LAST_FIVE.index(names[label]) for label in chosen["label"].to_pylist()])
        features["label"]["names"] = LAST_FIVE
        info = {"huggingface": json.dumps({"info": {"features": features}})}
        chosen = chosen.set_column(chosen.schema.get_field_index("label"), "label", new)
        name = "validation" if split == "test" else split
        pq.write_table(
            chosen.replace_schema_metadata(info), folder / f"{name}-00000-of-00001.parquet"
        )
    return str(folder)


def train(recipe: Path, overrides: list[str], *, work: Path) -> dict:
    """Train; return the last evaluation, the epochs and the seconds on the processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("train_accelerate.py", str(recipe), *overrides, f"run.output_dir={work}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = work / overrides[-1].removeprefix("run.name=")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = last_evaluation(folder) | {"processor_seconds": round(used, 1)}
    if folder.name != "first":
        shutil.rmtree(folder)
    return found


def last_evaluation(folder: Path) -> dict:
    """Accuracy, loss and epochs at the end of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "eval_top1_accuracy" in line][-1]
    return {
        "top1_accuracy": last["eval_top1_accuracy"],
        "loss": last["eval_loss"],
        "epochs": last["epoch"],
    }


def run(*arguments: str) -> None:
    """Run Python in the root of the project, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, env=environment)


def record(runs: list[dict], first_accuracy: float) -> dict:
    """The result file."""
    cases: dict[tuple, list[dict]] = {}
    for each in runs:
        case = (each["start"], each["images"], each["change"])
        cases.setdefault(case, []).append(each)
    summary = [
        {
            **{key: found[0][key] for key in ("start", "images", "change", "settings")},
            "n": len(found),
            "top1_accuracy_mean": round(statistics.mean(accuracies), 4),
            "top1_accuracy_standard_deviation": round(statistics.stdev(accuracies), 4),
            "processor_seconds_mean": round(statistics.mean(seconds), 1),
        }
        for found in cases.values()
        if len(found) > 1
        for accuracies in [[run["top1_accuracy"] for run in found]]
        for seconds in [[run["processor_seconds"] for run in found]]
    ]
    return {
        "what": "settings of convzoo finetune against their neighbours; accuracy on images that "
        "were not trained on",
        **provenance(command_line("python benchmarks/finetune_presets.py")),
        "top1_accuracy_of_the_first_network_on_its_five_classes": first_accuracy,
        "summary": summary,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
