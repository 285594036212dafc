"""How far are exported networks from their models? Each family, each format, several batches.

    python benchmarks/export_parity.py

Exports are written by `convzoo export`'s own function and opened as classify.py opens them.
Networks of full size have random weights: their batch statistics are those of the photographs, and
the head is scaled until logits have a standard deviation of 3, so that classes differ as in a
trained one. They show that an export computes what its model does. What 8 bits cost is told by the
two trained networks in data/models, on all test images: ranges are from training images. The model
is always as it loads, in float32; bfloat16 (by `convzoo.inference.prepare`) stands beside it.
Every second photograph is compared; int8 networks take their ranges from the others.
"""

import argparse
import copy
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convzoo.comparison.paired_statistics import difference_interval, mcnemar_p_value
from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.stream import eval_rows
from convzoo.environment import command_line, provenance
from convzoo.evaluation.statistics import wilson_interval
from convzoo.exporting.classify import Network, load_network, prepare
from convzoo.exporting.exporting import CheckImages, ExportOptions, Format, export_model
from convzoo.files import write_json
from convzoo.images.decoding import open_rgb
from convzoo.inference import prepare as prepare_model
from convzoo.prediction.classifier import load_classifier
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)

ROOT = Path(__file__).resolve().parent.parent
FORMATS: tuple[Format, ...] = ("onnx", "torch-export", "int8-onnx")
NETWORKS: dict[str, Callable[[], Any]] = {
    "CNN, PReLU": lambda: CNN(CNNConfig()),
    "CNN, ReLU": lambda: CNN(CNNConfig(use_prelu=False)),
    "AlexNet, one tower": lambda: AlexNet(AlexNetConfig.one_tower()),
    "AlexNet, two towers": lambda: AlexNet(AlexNetConfig.paper_2012()),
    "QLNet": lambda: QLNet(QLNetConfig()),
}
TRAINED = {"CNN, PReLU, trained": "fashion-mnist-cnn", "QLNet, trained": "fashion-mnist-qlnet"}
RANGES = 400  # training images for the ranges of a trained network, and as many to check it


def main() -> None:
    """Export and compare all networks, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photographs", default="data/photos", help="folder of images")
    parser.add_argument("--output", default="benchmarks/results/export_parity_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in NETWORKS.items():
            torch.manual_seed(0)
            rows += random_network(name, build(), Path(folder) / name, photographs=args.photographs)
        for name, home in TRAINED.items():
            rows += trained_network(name, ROOT / "data" / "models" / home, Path(folder))
    record = {
        "what": "exported networks beside their models, which are as loaded, in float32: largest "
        "difference of a logit and of a probability, and images whose first class is the same",
        **provenance(command_line("python benchmarks/export_parity.py")),
        "onnxruntime": version("onnxruntime"),
        "photographs": Path(args.photographs).name,
        "images_for_ranges": RANGES,
        "rows": rows,
    }
    write_json(Path(args.output), record)


def random_network(
    name: str, model: Any, folder: Path, *, photographs: str
) -> list[dict[str, Any]]:
    """Export a network with random weights in all formats, and compare photographs."""
    processor = ConvZooImageProcessor()
    paths = sorted(path for path in Path(photographs).rglob("*.jpg"))
    pixels = [
        prepare(open_rgb(path.read_bytes(), exif_rotation=True), processor.to_dict())
        for path in paths
    ]
    settle(model, pixels[::2])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    shown = pixels[1::2]
    batches = {"1": shown, "3": joined(shown, 3)}
    rows = []
    for form in FORMATS:
        output = folder.with_name(f"{folder.name}, {form}")
        images = CheckImages(words=[str(path) for path in paths], limit=0)
        row, network = exported(folder, output, form, images=images)
        if row["takes"][2:] == ["height", "width"]:
            batches["3, another size"] = joined([x[:, :, :192, 16:176] for x in shown], 3)
        compared = {size: compare(model, network, batch) for size, batch in batches.items()}
        rows.append({"network": name, "format": form} | row | {"batches": compared})
        print(rows[-1], flush=True)
    return rows


def trained_network(name: str, home: Path, folder: Path) -> list[dict[str, Any]]:
    """Export a trained network in all formats, and compare all test images, with their labels."""
    classifier = load_classifier(str(home), device="cpu")
    settings, pixels, labels = classifier.processor.to_dict(), [], []
    for _, data, label in eval_rows(open_split("data/fashion-mnist", "test")):
        pixels.append(prepare(open_rgb(data, settings["num_channels"]), settings))
        labels.append(label)
    model = classifier.model.float()
    fast = copy.deepcopy(model)
    prepare_model(fast, precision="bfloat16")
    images = CheckImages(
        data=DatasetReference(path="data/fashion-mnist"), split="train", limit=2 * RANGES
    )
    rows: list[dict[str, Any]] = []
    for form in (*FORMATS, "bfloat16"):
        if form == "bfloat16":
            row, network = {}, of_model(fast)
        else:
            row, network = exported(home, folder / f"{name}, {form}", form, images=images)
        compared = {
            size: compare(model, network, joined(pixels, int(size)), labels=labels)
            for size in ("1", "3")
        }
        rows.append({"network": name, "format": form} | row | {"batches": compared})
        print(rows[-1], flush=True)
    return rows


def settle(model: Any, pixels: list[np.ndarray]) -> None:
    """Give batch norms the statistics of images, PReLUs slopes, and logits a usual size."""
    norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for each in norms:
        each.momentum = None  # the average of all batches
    for each in (each for each in model.modules() if isinstance(each, torch.nn.PReLU)):
        torch.nn.init.uniform_(each.weight, 0, 0.5)
    batches = joined(pixels, 8)
    with torch.no_grad():
        model.train()
        for batch in batches if norms else ():
            model(torch.from_numpy(batch))
        model.eval()
        logits = np.concatenate([of_model(model)(batch) for batch in batches])
        model.classifier.weight.mul_(3 / float(logits.std()))


def exported(
    model: Path, output: Path, form: Format, *, images: CheckImages
) -> tuple[dict[str, Any], Network]:
    """Export as a user does; returns what it cost, and the network as classify.py loads it."""
    begin = time.process_time()
    facts = export_model(
        str(model), output, ExportOptions(form=form, least_agreement=0, images=images)
    )
    row = {
        "bytes": facts["bytes"],
        "takes": facts["input"]["shape"],
        "processor_seconds": round(time.process_time() - begin, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    return row, load_network(output / facts["file"])


def of_model(model: Any) -> Network:
    """Run a model on arrays."""

    @torch.inference_mode()
    def run(pixel_values: np.ndarray) -> np.ndarray:
        return np.asarray(model(torch.from_numpy(pixel_values).to(model.dtype)).logits.float())

    return run


def joined(pixels: list[np.ndarray], size: int) -> list[np.ndarray]:
    """Join images to batches."""
    return [np.concatenate(pixels[n : n + size]) for n in range(0, len(pixels), size)]


def compare(
    model: Any, network: Network, batches: list[np.ndarray], *, labels: list[int] | None = None
) -> dict[str, Any]:
    """Compare a network with the model on the same batches."""
    expected, found = (
        np.concatenate([run(batch) for batch in batches]).astype(np.float64)
        for run in (of_model(model), network)
    )
    answers, said = expected.argmax(1), found.argmax(1)
    facts: dict[str, Any] = {
        "n": len(expected),
        "largest_logit": round(float(np.abs(expected).max()), 3),
        "largest_difference_of_a_logit": float(f"{np.abs(found - expected).max():.2g}"),
        "largest_difference_of_a_probability": float(
            f"{np.abs(softmax(found) - softmax(expected)).max():.2g}"
        ),
        "same_first_class": int((answers == said).sum()),
    }
    if labels:
        right, still = answers == labels, said == labels
        lost, won = int((right & ~still).sum()), int((still & ~right).sum())
        facts |= {
            "agreement_interval_95": wilson_interval(facts["same_first_class"], len(answers)),
            "top1_accuracy_of_model": float(right.mean()),
            "top1_accuracy": float(still.mean()),
            "change_of_accuracy_interval_95": difference_interval(
                won, lost, num_images=len(labels)
            ),
            "mcnemar_p_value": mcnemar_p_value(won, lost),
        }
    return facts


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits, (N, num_labels), into probabilities."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


if __name__ == "__main__":
    main()
