"""Made-up weights, images and images that depend only on names and shapes.

Four originals were run once, in float64, on these numbers (torch 2.13.0, timm 0.9.7), and
tests/golden/ holds what came out: github.com/chrisjob1021/model-examples at 6581ef6 (cnn_*),
torchvision's alexnet (alexnet_one_tower), github.com/xevolesi/alexnet_pytorch at 56223c9
(alexnet_2012_reimplementation) and github.com/liuyao12/ConvNets-PDE-perspective at a754471
(qlnet_v0). A <name>.keys.json maps our name of a weight to the original's and its shape.

All of it is integer arithmetic on 64-bit words, so anybody can produce the same numbers again:
element i = 1, 2, ... of the stream of a name is the splitmix64 output for the word
crc32(name) * 2**32 + i * GAMMA, its upper 53 bits read as a fraction in [0, 1). `tensor` turns
fractions into plausible weights by the ORIGINAL name. golden/recipe_check.json checks this file.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
GAMMA = 0x9E3779B97F4A7C15


def golden(name: str) -> dict:
    """The contents of tests/golden/<name>.json."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def uniform(name: str, count: int) -> np.ndarray:
    """`count` float64 numbers in [0, 1), the stream of a name."""
    word = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
    word += np.uint64(zlib.crc32(name.encode()) << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    return (word >> np.uint64(11)) * 2.0**-53


def tensor(name: str, shape: list[int]) -> torch.Tensor:
    """The weight (or the counter) of an original name."""
    *_, group, owner, last = ["", "", *name.split(".")]
    if last == "num_batches_tracked":
        return torch.tensor(1000)
    u = uniform(name, math.prod(shape)).reshape(shape)
    if len(shape) > 1:
        value = math.sqrt(6 / math.prod(shape[1:])) * (2 * u - 1)
    elif last == "running_mean":
        value = 0.4 * u - 0.2
    elif last == "running_var":
        value = 0.5 + u
    elif last == "residual_scale":
        value = 2 * u - 1
    elif last == "bias":
        value = 0.2 * u - 0.1
    elif owner in ("act", "act1", "act2", "final_act"):
        value = 0.05 + 0.4 * u
    else:  # the gain of a batch norm; smaller where residual branches end
        small = {"conv3.bn": 0.2, "skip.bn": 0.65}.get(f"{group}.{owner}", 1)
        value = (0.5 + 0.5 * u) * (0.6 if owner == "bn3" else small)
    return torch.from_numpy(value.astype(np.float32))


def weights(keys: dict[str, list], original_names: bool = False) -> dict[str, torch.Tensor]:
    """The state dict of a table {our name: [original name, shape]} from tests/golden/."""
    return {
        (original if original_names else ours): tensor(original, shape)
        for ours, (original, shape) in keys.items()
    }


def images(scale: float = 1, size: int = 224) -> torch.Tensor:
    """Two float64 images (2, 3, size, size): waves and noise, brighter towards one corner."""
    n = np.arange(2.0).reshape(2, 1, 1, 1)
    c = np.arange(3.0).reshape(1, 3, 1, 1)
    h = np.arange(float(size)).reshape(1, 1, size, 1)
    w = np.arange(float(size)).reshape(1, 1, 1, size)
    wave = np.sin(0.05 * (h + 1) * (1 + 0.3 * c) + 0.7 * n)
    wave = wave + np.cos(0.031 * (w + 1) * (1 + 0.2 * c) * (1 + 0.5 * n))
    noise = 2 * uniform("input", 6 * size * size).reshape(2, 3, size, size) - 1
    envelope = 0.2 + 1.2 * (h + (1 - n) * w + n * (size - 1 - w)) / (2 * size)
    image = envelope * (wave + (1 - 0.5 * n) * noise) + (n - 0.5) * (1 - c)
    return torch.from_numpy(scale * image)


def checkerboard(height: int, width: int) -> np.ndarray:
    """A uint8 RGB image (height, width, 3): ramps and a checkerboard."""
    y, x, c = np.ogrid[:height, :width, :3]
    ramp = (x * (3 + c) + y * (5 - c)) // 4
    checks = (x // 16 + y // 24) % 2 * 60
    return ((ramp + checks + 40 * c) % 256).astype(np.uint8)


def rotation(name: str, size: int) -> torch.Tensor:
    """An orthogonal float64 matrix (size, size), a product of size // 8 reflections."""
    matrix = np.eye(size)
    for index in range(max(1, size // 8)):
        v = 2 * uniform(f"{name}/{index}", size) - 1
        v /= np.sqrt((v * v).sum())
        matrix -= 2 * np.outer(matrix @ v, v)
    return torch.from_numpy(matrix)
