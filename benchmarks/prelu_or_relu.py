"""PReLU against ReLU under one recipe, five seeds each: which is better on Fashion-MNIST?

    python benchmarks/prelu_or_relu.py --folder runs/prelu_or_relu --seeds 5

A CPU-sized version of `recipes/quickstart.toml`: a smaller network and two epochs. Each seed trains
one network with PReLU and one with ReLU, which see the same images in the same order, and evaluates
both on all test images. Runs that FOLDER holds already are not repeated. The result file says what
`convzoo compare` says of the model folders: means and deviations over seeds, the interval over
seeds and images, and the verdict.
"""

import argparse
import resource
from pathlib import Path

import train_accelerate
from convzoo.comparison.comparing import CompareOptions, compare_models
from convzoo.environment import command_line, describe_environment, now
from convzoo.evaluation.evaluating import evaluate_folder
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import read_results
from convzoo.files import write_json

ROOT = Path(__file__).parent.parent
DATA = "data/fashion-mnist"
SETTINGS = [
    *("model.embedding_size=8", "model.hidden_sizes=[8, 16, 32]", "train.epochs=2"),
    *("data.num_workers=0", "data.examples=0", "train.evaluate_every_epochs=0"),
]
NETWORKS = {"prelu": "true", "relu": "false"}


def main() -> None:
    """Train what is missing, compare, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", default="runs/prelu_or_relu", help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs of each network")
    parser.add_argument("--output", default="benchmarks/results/prelu_or_relu_cpu_202611.json")
    args = parser.parse_args()
    seeds = range(1, args.seeds + 1)
    models = {
        network: [train(Path(args.folder), network, seed) for seed in seeds] for network in NETWORKS
    }
    compared = compare_models(
        [str(folder) for folders in models.values() for folder in folders],
        CompareOptions(seeds=True),
    )
    write_json(
        ROOT / args.output,
        {
            "what": "the network of recipes/quickstart.toml, narrower, with PReLU and with ReLU",
            "command": command_line("python benchmarks/prelu_or_relu.py"),
            "date": now(),
            "environment": describe_environment(),
            "n": args.seeds,
            "settings": SETTINGS,
            "cpu_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime, 1),
            **compared,
        },
    )
    print(compared["verdict"])


def train(folder: Path, network: str, seed: int) -> Path:
    """Train and evaluate a network with a seed, unless that is done; returns the model folder."""
    model = folder / f"{network}-{seed}" / "model"
    if not read_results(model):
        overrides = [f"run.output_dir={folder}", f"run.name={network}-{seed}", f"run.seed={seed}"]
        activation = f"model.use_prelu={NETWORKS[network]}"
        recipe = str(ROOT / "recipes" / "quickstart.toml")
        train_accelerate.main([recipe, *SETTINGS, activation, *overrides])
        protocol = EvaluationProtocol(batch_size=250, num_workers=0)
        evaluate_folder(str(model), DATA, split="test", command="", protocol=protocol)
    return model


if __name__ == "__main__":
    main()
