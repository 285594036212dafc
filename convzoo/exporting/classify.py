"""Classify image files with an exported network.

    python classify.py IMAGE...

It needs Pillow, numpy and what runs the file beside it: onnxruntime for model.onnx, torch for
model.pt2. The export copies this file, and was checked with its `prepare` and `load_network`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Network = Callable[[np.ndarray], np.ndarray]  # pixel_values (N, C, H, W) -> logits (N, classes)


def prepare(image: Image.Image, settings: dict[str, Any]) -> np.ndarray:
    """Turn an image into pixel_values, float32, (1, C, H, W), as preprocessor_config.json says.

    Raises:
        ValueError: if its pixels have neither 8 nor 16 bits.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"images must have 8 or 16 bits; got mode {image.mode}")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    channels = settings["num_channels"]
    image = image.convert("RGB" if channels == 3 else "L")
    if settings.get("do_resize", True):
        short = settings["size"]["shortest_edge"]
        long = int(short * max(image.size) / min(image.size))
        size = (long, short) if image.width > image.height else (short, long)
        image = image.resize(size, settings["resample"])
    if settings.get("do_center_crop", True):
        height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    scale = np.float32(settings["rescale_factor"] if settings.get("do_rescale", True) else 1)
    mean, std = np.zeros((channels, 1, 1), np.float32), np.ones((channels, 1, 1), np.float32)
    if settings.get("do_normalize", True):
        mean = np.array(settings["image_mean"], np.float32)[:, None, None]
        std = np.array(settings["image_std"], np.float32)[:, None, None]
    return np.asarray(pixels * (scale / std) + -mean / std, np.float32)[None]


def load_network(file: Path) -> Network:
    """Load model.onnx with onnxruntime, or model.pt2 with torch."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def run_onnx(pixel_values: np.ndarray) -> np.ndarray:
            return np.asarray(session.run(["logits"], {"pixel_values": pixel_values})[0])

        return run_onnx
    import torch

    program = torch.export.load(file).module()

    def run_program(pixel_values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: torch.Tensor = program(torch.from_numpy(pixel_values))
        return logits.numpy()

    return run_program


def scores_of(logits: np.ndarray, kind: str) -> np.ndarray:
    """Turn the logits of an image into scores: by "softmax", "sigmoid", or not at all ("none")."""
    if kind == "softmax":
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())
    return 1 / (1 + np.exp(-logits)) if kind == "sigmoid" else logits


def main(names: list[str], top_k: int = 5) -> int:
    """Write the likeliest classes of each image; returns 1 if one could not be read."""
    folder = Path(__file__).resolve().parent
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    if not names:
        sys.stderr.write("usage: python classify.py IMAGE...\n")
        return 2
    network, broken = load_network(folder / facts["file"]), 0
    for name in names:
        try:
            with Image.open(name) as image:
                pixel_values = prepare(ImageOps.exif_transpose(image), settings)
        except (OSError, ValueError) as error:
            broken = 1
            sys.stderr.write(f"error: {name}: {error}\n")
            continue
        scores = scores_of(network(pixel_values)[0].astype(np.float64), facts["scores"])
        best = np.argsort(-scores, kind="stable")[:top_k]
        answers = ", ".join(f"{facts['classes'][index]} {scores[index]:.4f}" for index in best)
        sys.stdout.write(f"{name}: {answers}\n")
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
