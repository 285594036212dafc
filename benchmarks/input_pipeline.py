"""Images per second of one CPU thread, from encoded photographs to a normalised batch.

    PYTHONPATH=. python benchmarks/input_pipeline.py --data FOLDER [FOLDER ...]

FOLDER holds JPEG files, or parquet files with a train split; without --data it is data/photos. Ours
runs beside the pipelines of the transformers examples, torchvision and timm, which the project
itself does not need: install them without their dependencies in an environment of their own. A peer
that cannot be used is named with the reason. torchvision's CUDA build imports on a machine without
CUDA once its two compiled operators have a declaration, below; for its JPEG decoder, stand-ins for
libc10_cuda.so and libtorch_cuda.so must lie on LD_LIBRARY_PATH.

What is measured is CPU time of the process (all its threads), because it depends little on what
else the machine does. The variants take turns, in random order, on batches of 20 photographs, in
the streamed part on whole passes; each round gives one ratio.
"""

import argparse
import importlib.util
import io
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

if spec := importlib.util.find_spec("torchvision"):
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))
    except OSError:
        _library = torch.library.Library("torchvision", "DEF")
        for _operator in ("nms", "qnms"):
            _library.define(f"{_operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")

import datasets
import simplejpeg
from PIL import Image

from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.split import Split
from convzoo.data.stream import TrainStream, eval_rows, train_batches
from convzoo.environment import describe_environment, now
from convzoo.files import write_json
from convzoo.images.crops import random_resized_box, resize
from convzoo.images.decoding import decode_rgb, open_for_cropping
from convzoo.images.erasing import erase
from convzoo.images.normalize import Normalize
from convzoo.images.policies import parse_policy
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing

ROOT = Path(__file__).resolve().parent.parent
BATCH = 20
SIZE = 224
POLICY = "rand-m9-mstd0.5"
ERASING = 0.25
OURS = "convzoo"
MEAN, STD = Preprocessing().mean, Preprocessing().std

transform = TrainTransform(Augmentation(), Preprocessing(crop=SIZE))
normalize = Normalize(rescale_factor=1 / 255, mean=MEAN, std=STD)
positions = itertools.count()  # sample numbers


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=[str(ROOT / "data/photos")])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="benchmarks/results/input_pipeline_2cpu_202611.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    folders = " ".join(map(folder_as_typed, args.data))
    environment = describe_environment()
    for package in ("turbojpeg", "torchvision", "timm"):
        if importlib.util.find_spec(package):
            environment["versions"][package] = version(package)
    results = {
        "what": "CPU time of one thread from encoded photographs to a normalised batch of 224 px",
        "command": f"PYTHONPATH=. python benchmarks/input_pipeline.py --data {folders} "
        f"--rounds {args.rounds}",
        "date": now(),
        "environment": environment,
        "threads": 1,
        "batch_size": BATCH,
        "rounds": args.rounds,
        "ratio": "CPU time of the variant divided by that of convzoo in the same round",
        "runs": [measure_folder(path, args.rounds) for path in args.data],
    }
    write_json(ROOT / args.output, results)


def measure_folder(path: str, rounds: int) -> dict:
    """All rows on the photographs of one folder."""
    with tempfile.TemporaryDirectory() as folder:
        if any(Path(path).glob("*.jpg")):
            pack_photographs(Path(path), Path(folder))
        source = open_split(folder if any(Path(folder).iterdir()) else path, "train")
        encoded = [bytes(data) for _, data, _ in eval_rows(source)]
        batches = [encoded[i : i + BATCH] for i in range(0, len(encoded) - BATCH + 1, BATCH)]
        sizes = [decode_rgb(data).shape for data in encoded]
        run = {
            "data": Path(path).name,
            "fingerprint": source.fingerprint,
            "num_images": len(batches) * BATCH,
            "mean_bytes": round(statistics.mean(map(len, encoded))),
            "mean_pixels": round(statistics.mean(height * width for height, width, _ in sizes)),
            "difference_from_pillow_grey_levels": difference_from_pillow(encoded),
        }
        print(run)
        passes = [len(batches)] * 3
        run["crop"] = compare(crop_variants(), batches, rounds=rounds)
        run["crop_policy_erasing"] = compare(policy_variants(), batches, rounds=rounds)
        run["streamed_crop"] = compare(
            streamed_variants(source), passes, rounds=rounds, batches_per_block=len(batches)
        )
    return run


def folder_as_typed(path: str) -> str:
    """What a record says of a folder: its place in this repository, or only FOLDER."""
    folder = Path(path).resolve()
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else "FOLDER"


def pack_photographs(photographs: Path, folder: Path) -> None:
    """Write JPEG files as a parquet split, 10 to a row group."""
    files = sorted(photographs.glob("*.jpg"))
    rows = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [0] * len(files),
    }
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["photograph"])}
    )
    split = datasets.Dataset.from_dict(rows, features=features)
    split.to_parquet(folder / "train-00000-of-00001.parquet", batch_size=10)


def difference_from_pillow(encoded: list[bytes]) -> dict:
    """Our decoding, cropping and resizing against Pillow's, which torchvision v1 and timm call."""
    largest, means = 0, []
    for number, data in enumerate(encoded):
        pixels = decode_rgb(data)
        rng = sample_rng(0, number)
        top, left, height, width = random_resized_box(
            pixels.shape[:2], rng, scale=(0.08, 1), ratio=(0.75, 4 / 3)
        )
        ours = resize(
            pixels[top : top + height, left : left + width], (SIZE, SIZE), interpolation="bilinear"
        )
        crop = open_pillow(data).crop((left, top, left + width, top + height))
        theirs = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        difference = np.abs(ours.astype(int) - theirs)
        largest = max(largest, int(difference.max()))
        means.append(difference.mean())
    return {"largest": largest, "mean": round(float(np.mean(means)), 4)}


def compare(variants: dict, blocks: list, *, rounds: int, batches_per_block: int = 1) -> dict:
    """Measure variants in turns.

    Args:
        variants: name to a function of one block, or to the reason why it cannot run.
        blocks: what the functions are given, in turn.
        rounds: passes over the blocks.
        batches_per_block: for images per second.
    """
    runnable = {name: run for name, run in variants.items() if isinstance(run, Callable)}
    seconds = {name: [0.0] * rounds for name in runnable}
    for run in runnable.values():
        run(blocks[0])
    for number in range(rounds):
        for block in blocks:
            for name in random.sample(list(runnable), len(runnable)):
                started = time.process_time()
                runnable[name](block)
                seconds[name][number] += time.process_time() - started
    images = len(blocks) * batches_per_block * BATCH
    table = {}
    for name in variants:
        if name not in runnable:
            table[name] = {"not_measured": variants[name]}
        else:
            ratios = [s / ours for s, ours in zip(seconds[name], seconds[OURS], strict=True)]
            table[name] = {
                "images_per_second_median": round(images / statistics.median(seconds[name]), 1),
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_min": round(min(ratios), 3),
                "ratio_max": round(max(ratios), 3),
            }
        print(f"  {name}: {table[name]}", flush=True)
    return table


def crop_variants() -> dict:
    """Decode, random resized crop, flip, normalise."""
    variants = {
        OURS: lambda batch: normalize(our_crops(batch)),
        "convzoo, uint8 batch (normalised on a GPU)": our_crops,
        "convzoo, without turbojpeg": lambda batch: normalize(our_crops(batch, decode_rgb)),
        "simplejpeg, decoding alone": decode_only,
    }
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        variants["torchvision"] = str(error)
    else:
        variants["Pillow + torchvision v1 (transformers examples)"] = per_image(torchvision_v1())
        crop = v2.RandomResizedCrop(SIZE, antialias=True)
        on_tensors = v2.Compose([crop, v2.RandomHorizontalFlip()])
        finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        variants["torchvision decode_jpeg + v2, normalised per batch"] = torchvision_v2(
            on_tensors, finish
        )
    plain = {"timm, no colour jitter": {"color_jitter": None}}
    return variants | timm_variants(plain | {"timm, default (colour jitter 0.4)": {}})


def our_crops(batch: list[bytes], decode: Callable = open_for_cropping) -> torch.Tensor:
    """What a TrainStream does with the images of one batch."""
    crops = [transform(decode(data), sample_rng(0, next(positions))) for data in batch]
    return torch.from_numpy(np.stack(crops))


def decode_only(batch: list[bytes]) -> None:
    """What libjpeg-turbo needs for whole images."""
    for data in batch:
        simplejpeg.decode_jpeg(data, "RGB")


def per_image(pillow_transform: Callable) -> Callable:
    """A function of a batch from one of a Pillow image."""
    return lambda batch: torch.stack([pillow_transform(open_pillow(data)) for data in batch])


def open_pillow(data: bytes) -> Image.Image:
    """Decode with Pillow."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def torchvision_v1() -> Callable:
    """The training transforms of transformers' examples/pytorch/image-classification."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def torchvision_v2(on_tensors: Callable, finish: Callable) -> Callable | str:
    """uint8 tensors all the way: the fastest form of torchvision's own pipeline."""
    from torchvision.io import ImageReadMode, decode_jpeg

    def run(batch):
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in batch]
        return finish(
            torch.stack([on_tensors(decode_jpeg(data, ImageReadMode.RGB)) for data in tensors])
        )

    try:
        run([simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))])
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return run


def timm_variants(settings: dict[str, dict]) -> dict:
    """The training transforms of timm with further settings, under the names given."""
    try:
        from timm.data import create_transform
    except ImportError as error:
        return dict.fromkeys(settings, str(error))
    common = {"is_training": True, "interpolation": "bilinear", "mean": MEAN, "std": STD}
    return {
        name: per_image(create_transform(SIZE, **common, **more)) for name, more in settings.items()
    }


def policy_variants() -> dict:
    """The same with RandAugment and random erasing; the boxes and noise are those of timm."""
    settings = Augmentation(
        erasing=ERASING, erasing_area=(0.02, 1 / 3), erasing_ratio=(0.3, 1 / 0.3)
    )
    with_policy = TrainTransform(settings, Preprocessing(crop=SIZE))
    with_policy.operations = [parse_policy(POLICY, interpolation="bilinear")]

    def ours(batch):
        crops, boxes = [], []
        for data in batch:
            rng = sample_rng(0, next(positions))
            crops.append(with_policy(open_for_cropping(data), rng))
            boxes.append(with_policy.erasing_boxes(rng))
        pixel_values = normalize(torch.from_numpy(np.stack(crops)))
        return erase(pixel_values, boxes, noise=lambda row: sample_rng(1, row))

    theirs = {"auto_augment": POLICY, "re_prob": ERASING, "re_mode": "pixel"}
    return {OURS: ours} | timm_variants({"timm": theirs})


def streamed_variants(source: Split) -> dict:
    """From parquet files to batches with labels; the functions take a number of batches."""

    def ours(steps):
        order = DataOrder(
            source.group_rows,
            source.group_bytes,
            global_batch_size=BATCH,
            memory_bytes=512 * 2**20,
            seed=0,
        )
        stream = TrainStream(source, order, transform=transform, share=Share(), steps=range(steps))
        for batch in train_batches(stream, num_workers=0):
            normalize(batch["pixels"])

    variants = {OURS: ours}
    name = "datasets, decode=True + map(torchvision v1) + collate"
    try:
        to_tensor = torchvision_v1()
    except ImportError as error:
        return variants | {name: str(error)}
    files = list(source.files)
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    mapped = streamed.map(
        lambda row: {"pixel_values": to_tensor(row["image"].convert("RGB"))},
        remove_columns=[source.image_column],
    )

    def theirs(steps):
        loader = torch.utils.data.DataLoader(mapped, batch_size=BATCH, collate_fn=collate)
        for _ in itertools.islice(loader, steps):
            pass

    def collate(rows):
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row[source.label_column] for row in rows]),
        }

    return variants | {name: theirs}


if __name__ == "__main__":
    main()
