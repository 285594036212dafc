"""PReLU against ReLU under one recipe, five seeds each: which is better?

    python benchmarks/prelu_or_relu.py                      # on the embedded Fashion-MNIST sample
    python benchmarks/prelu_or_relu.py --cifar10 FOLDER     # on a fifth of CIFAR-10, as parquet

CPU-sized versions of `recipes/quickstart.toml` and `recipes/cifar10_cnn_prelu.toml`: smaller
networks and few epochs. Each seed trains one network with PReLU and one with ReLU, which see the
same images in the same order, and evaluates both on all test images. Finished runs of --folder
are not repeated. The result file says what `convzoo compare` says of the model folders: means and
deviations over seeds, the interval over seeds and images, and the verdict.
"""

import argparse
import resource
from pathlib import Path

import train_accelerate
from convzoo.comparison.comparing import CompareOptions, compare_models
from convzoo.environment import command_line, provenance
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import read_results
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
QUIET = ["data.num_workers=0", "data.examples=0", "train.evaluate_every_epochs=0"]
SETTINGS = {
    "quickstart": ["model.embedding_size=8", "model.hidden_sizes=[8, 16, 32]", "train.epochs=2"],
    "cifar10_cnn_prelu": [
        *("model.embedding_size=8", "model.hidden_sizes=[16, 32, 64]", "model.depths=[1, 1, 1]"),
        *("train.epochs=5", "train.global_batch_size=128", "optimizer.learning_rate=0.1"),
        *("train.mixed_precision=no", "schedule.warmup_epochs=1", "data.fraction=0.2"),
    ],
}
NETWORKS = {"prelu": "true", "relu": "false"}


def main() -> None:
    """Train what is missing, compare, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cifar10", metavar="FOLDER", help="CIFAR-10 as parquet files")
    parser.add_argument("--folder", default="runs/prelu_or_relu", help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs of each network")
    parser.add_argument("--output", default="benchmarks/results/prelu_or_relu_{recipe}_202611.json")
    args = parser.parse_args()
    recipe = "cifar10_cnn_prelu" if args.cifar10 else "quickstart"
    data = args.cifar10 or "data/fashion-mnist"
    folder = Path(args.folder) / recipe
    seeds = range(1, args.seeds + 1)
    models = {
        network: [train(recipe, network, folder=folder, data=data, seed=seed) for seed in seeds]
        for network in NETWORKS
    }
    compared = compare_models(
        [str(folder) for folders in models.values() for folder in folders],
        CompareOptions(seeds=True),
    )
    write_json(
        ROOT / args.output.format(recipe=recipe),
        {
            "what": f"the network of recipes/{recipe}.toml, narrower, with PReLU and with ReLU",
            **provenance(command_line("python benchmarks/prelu_or_relu.py")),
            "n": args.seeds,
            "settings": SETTINGS[recipe] + QUIET,
            "cpu_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime, 1),
            **compared,
        },
    )
    print(compared["verdict"])


def train(recipe: str, network: str, *, folder: Path, data: str, seed: int) -> Path:
    """Train and evaluate a network with a seed, unless that is done; returns the model folder."""
    model = folder / f"{network}-{seed}" / "model"
    if not read_results(model):
        activation = [f"model.use_prelu={NETWORKS[network]}", f"data.path={data}"]
        run = [f"run.output_dir={folder}", f"run.name={network}-{seed}", f"run.seed={seed}"]
        path = str(ROOT / "recipes" / f"{recipe}.toml")
        train_accelerate.main([path, *SETTINGS[recipe], *QUIET, *activation, *run])
        protocol = EvaluationProtocol(batch_size=250, num_workers=0)
        evaluate_model(str(model), data, split="test", command="", protocols=[protocol])
    return model


if __name__ == "__main__":
    main()
