"""Write the embedded sample of Fashion-MNIST, from the four original IDX files.

The sample is small enough to live in the repository and has the layout of the Hub's dataset
(parquet shards with encoded images), so training, evaluation and tests run without a network on
the code path that ImageNet takes. Which images are taken, and in which order they are written,
follows from a hash of their position, not from a library's random generator; the bytes of the files
also depend on the versions of Pillow and pyarrow, which README.md names.

    python data/make_fashion_mnist.py --source FOLDER_WITH_IDX_GZ --output data/fashion-mnist
"""

import argparse
import gzip
import hashlib
import io
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SEED = 42
NUM_PER_CLASS = {"train": 1200, "test": 200}
NUM_SHARDS = {"train": 4, "test": 1}
ROWS_PER_GROUP = 500  # several groups a shard: readers can share a shard between workers
# In the order of the labels, spelled as in zalando-datasets/fashion_mnist on the Hub.
CLASS_NAMES = (
    "T - shirt / top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# (images, labels) of a split, and the SHA-256 of their content. The content, because the gzip
# wrapper (name, time stamp) differs between distributors.
IDX_FILES = {
    "train": (
        (
            "train-images-idx3-ubyte.gz",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte.gz",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}
_FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"},
}
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "label": pa.int64(),
    },
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def read_idx(path: Path, sha256: str | None = None) -> np.ndarray:
    """Read a gzip-compressed IDX file of unsigned bytes.

    Args:
        path: the file.
        sha256: what the uncompressed content must hash to, in hexadecimal; None accepts any.

    Returns:
        The array, uint8, in the shape that the file states.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not gzip, not IDX of unsigned bytes, cut short, too long, or other
            content than the hash says.

    Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
    """
    if not path.is_file():
        raise FileNotFoundError(f"IDX file {path} must exist; give its folder with --source")
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a complete gzip file; got: {error}") from error
    # Two zeros, 8 for unsigned bytes, the number of dimensions, their sizes (4 bytes each), data.
    num_dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    data_offset = 4 + 4 * num_dimensions
    if num_dimensions == 0 or len(content) < data_offset:
        raise ValueError(
            f"{path} must begin with an IDX header of unsigned bytes, 00 00 08, the number of "
            f"dimensions and their sizes; got {content[:16].hex(' ')}"
        )
    shape = struct.unpack_from(f">{num_dimensions}I", content, 4)
    if len(content) - data_offset != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes after its header, for shape {shape}; "
            f"got {len(content) - data_offset}"
        )
    if sha256 is not None and (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"{path} must uncompress to the original with SHA-256 {sha256}; got {actual}. "
            "Take the file from the Fashion-MNIST distribution."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=data_offset).reshape(shape)


def choose(labels: np.ndarray, split: str, num_per_class: int) -> list[int]:
    """Choose the same number of positions from every class, and shuffle them.

    Args:
        labels: class of every image of the split, (N,).
        split: name of the split; part of what is hashed.
        num_per_class: how many to take of each class that occurs.

    Returns:
        Positions in the split: of each class the first ones in the order of
        SHA-256("<seed>/<split>/<position>"), ordered by the same hashes read backwards.

    Raises:
        ValueError: if a class has too few images.
    """
    digests = [
        hashlib.sha256(f"{SEED}/{split}/{index}".encode()).digest() for index in range(len(labels))
    ]
    counts = dict.fromkeys(labels.tolist(), 0)
    chosen = []
    for index in sorted(range(len(labels)), key=digests.__getitem__):
        label = int(labels[index])
        if counts[label] < num_per_class:
            counts[label] += 1
            chosen.append(index)
    if min(counts.values()) < num_per_class:
        raise ValueError(f"every class of {split} must have {num_per_class} images; got {counts}")
    # In the order in which they were taken, the classes that fill up last would be the whole tail.
    return sorted(chosen, key=lambda index: digests[index][::-1])


def write_shards(
    folder: Path, split: str, *, images: np.ndarray, labels: np.ndarray, num_shards: int
) -> list[Path]:
    """Write one split as parquet shards named as on the Hub, images as PNG.

    Args:
        folder: where the shards go; made if missing.
        split: name of the split, the first part of the file names.
        images: grey images, (N, H, W), uint8.
        labels: their classes, (N,).
        num_shards: how many files of (nearly) equal length.

    Returns:
        The files written, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard, rows in enumerate(np.array_split(np.arange(len(labels)), num_shards)):
        table = pa.table(
            {
                "image": [{"bytes": _encode_png(images[row]), "path": None} for row in rows],
                "label": labels[rows].astype(np.int64),
            },
            schema=SCHEMA,
        )
        path = folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
        # zstd: the images are compressed, but their headers are alike. No dictionary: no two
        # images are.
        pq.write_table(
            table,
            path,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
        )
        paths.append(path)
    return paths


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Read the four IDX files, write the shards, and print the SHA-256 of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the four .gz files")
    parser.add_argument("--output", type=Path, required=True, help="data/fashion-mnist")
    arguments = parser.parse_args(argv)
    # Everything is read before anything is written.
    arrays = {
        split: [read_idx(arguments.source / name, sha256) for name, sha256 in files]
        for split, files in IDX_FILES.items()
    }
    for split, (images, labels) in arrays.items():
        chosen = choose(labels, split, NUM_PER_CLASS[split])
        folder = arguments.output / "data"
        for path in write_shards(
            folder,
            split,
            images=images[chosen],
            labels=labels[chosen],
            num_shards=NUM_SHARDS[split],
        ):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{digest}  {path.relative_to(arguments.output)}")


if __name__ == "__main__":
    main()
