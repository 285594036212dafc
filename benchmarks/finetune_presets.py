"""The presets of `convzoo finetune` against their neighbours: one setting changed at a time.

    python benchmarks/finetune_presets.py --cifar10 FOLDER --seeds 3

FOLDER holds CIFAR-10 as parquet. A small CNN learns five of its classes; from there it is
fine-tuned on 250 and on 2,500 images of the other five, and measured on 2,000 of their test images.
Fresh networks learn the embedded photographs, of which a fifth measures (22 images: a difference of
one is 4.5 points). Each training is a process of its own, with the recipe that
`convzoo finetune --only-recipe` writes. The result file is written after each of them, and what it
has is not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convzoo.environment import command_line, describe_environment, now
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
# The preset had this learning rate until the first runs of this benchmark.
OLD_RATE = "optimizer.learning_rate=0.01"
# What is changed in the preset, for each start; "preset" changes nothing.
TRAINED = {
    "preset": [],
    "learning_rate=0.003": ["optimizer.learning_rate=0.003"],
    "learning_rate=0.01": [OLD_RATE],
    "learning_rate=0.1": ["optimizer.learning_rate=0.1"],
    "learning_rate=0.01 frozen_stages=0": [OLD_RATE, "finetune.frozen_stages=0"],
    "learning_rate=0.01 frozen_stages=2": [OLD_RATE, "finetune.frozen_stages=2"],
    "learning_rate=0.01 frozen_stages=-1": [OLD_RATE, "finetune.frozen_stages=-1"],
    "learning_rate=0.01 layer_decay=1": [OLD_RATE, "finetune.layer_decay=1.0"],
    "learning_rate=0.01 layer_decay=0.5": [OLD_RATE, "finetune.layer_decay=0.5"],
    "learning_rate=0.01 half the epochs": [OLD_RATE, "EPOCHS*0.5"],
    "learning_rate=0.01 twice the epochs": [OLD_RATE, "EPOCHS*2"],
}
FRESH = {
    "preset": [],
    "learning_rate=0.02": ["optimizer.learning_rate=0.02"],
    "learning_rate=0.1": ["optimizer.learning_rate=0.1"],
    "half the epochs": ["EPOCHS*0.5"],
    "twice the epochs": ["EPOCHS*2"],
}


def main() -> None:
    """Measure what the result file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cifar10", required=True, help="folder with CIFAR-10 as parquet")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs of each")
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        first = pretrain(args.cifar10, work)
        for start, images, change, seed in experiments(range(42, 42 + args.seeds)):
            case = {"start": start, "images": images, "change": change, "seed": seed}
            if not any(case.items() <= run.items() for run in known):
                known.append(case | measure(case, args.cifar10, first=first, work=work))
                write_json(RESULTS, record(known, first["top1_accuracy"]))


def experiments(seeds: range):
    """Start, images, changed setting and seed of each training."""
    yield from (("trained", "250 of CIFAR-10", change, s) for s in seeds for change in TRAINED)
    yield from (("fresh", "photographs", change, s) for s in seeds for change in FRESH)
    yield from (("trained", "photographs", "preset", s) for s in seeds)
    yield from (("trained", "2500 of CIFAR-10", change, s) for s in seeds for change in TRAINED)


def pretrain(data: str, work: Path) -> dict:
    """Train the network that the others start from."""
    recipe = work / "first.toml"
    recipe.write_text("")
    settings = [f"data.path={data}", *NETWORK, *PRETRAINING, *ONCE, "data.eval_split=test"]
    settings += ["train.label_smoothing=0.1", "optimizer.nesterov=true", "schedule.warmup_epochs=1"]
    return train(recipe, [*settings, "optimizer.weight_decay=5e-4"], work=work)


def measure(case: dict, data: str, *, first: dict, work: Path) -> dict:
    """Write the recipe of a case, train with it, and return what came of it."""
    photographs = case["images"] == "photographs"
    settings = [
        f"run.seed={case['seed']}",
        *ONCE,
        *([] if photographs else ["data.eval_limit=2000"]),
    ]
    if not photographs:  # the preset must see how many images there are
        data = few_images(data, int(case["images"].split()[0]), seed=case["seed"], work=work)
    name = "case"
    command = ["finetune", "data/photos" if photographs else data, "--only-recipe", "--quiet"]
    command += ["--output", str(work), f"run.name={name}", *settings]
    if case["start"] == "trained":
        command += ["--from", str(first["model"])]
    recipe = work / f"{name}.toml"
    recipe.unlink(missing_ok=True)
    run("-m", "convzoo", *command)
    changes = (TRAINED if case["start"] == "trained" else FRESH)[case["change"]]
    overrides = []
    for each in changes:
        if each.startswith("EPOCHS*"):
            each = f"train.epochs={epochs_of(recipe) * float(each[7:]):g}"
        overrides.append(each)
    trained = train(recipe, [*overrides, f"run.name={name}-run"], work=work)
    return {key: trained[key] for key in ("top1_accuracy", "loss", "epochs", "seconds")}


def epochs_of(recipe: Path) -> float:
    """Epochs that a written recipe says."""
    import tomllib

    return float(tomllib.loads(recipe.read_text())["train"]["epochs"])


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
    """Train; returns the last evaluation, the epochs, the seconds of CPU and the model's folder."""
    import shutil

    started = time.perf_counter()
    run("train_accelerate.py", str(recipe), *overrides, f"run.output_dir={work}")
    name = next((o.partition("=")[2] for o in overrides if o.startswith("run.name=")), recipe.stem)
    folder = work / name
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "eval_top1_accuracy" in line][-1]
    if name != "first":
        shutil.rmtree(folder)
    return {
        "top1_accuracy": last["eval_top1_accuracy"],
        "loss": last["eval_loss"],
        "epochs": last["epoch"],
        "seconds": round(time.perf_counter() - started, 1),
        "model": folder / "model",
    }


def run(*arguments: str) -> None:
    """Run Python in the root of the project, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, env=environment)


def record(runs: list[dict], first_accuracy: float) -> dict:
    """The result file."""
    cases = {}
    for each in runs:
        case = (each["start"], each["images"], each["change"])
        cases.setdefault(case, []).append(each["top1_accuracy"])
    summary = [
        {
            **dict(zip(("start", "images", "change"), case, strict=True)),
            "n": len(found),
            "top1_accuracy_mean": round(statistics.mean(found), 4),
            "top1_accuracy_standard_deviation": (
                round(statistics.stdev(found), 4) if len(found) > 1 else None
            ),
        }
        for case, found in cases.items()
    ]
    return {
        "what": "settings of convzoo finetune against their neighbours; accuracy on images that "
        "were not trained on",
        "command": command_line("python benchmarks/finetune_presets.py"),
        "date": now(),
        "environment": describe_environment(),
        "top1_accuracy_of_the_first_network_on_its_five_classes": first_accuracy,
        "summary": summary,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
