"""Images as tests make them: encoded, damaged, in splits and in folders."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}


def encode(image, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def jpeg(image, subsampling="4:2:0", quality=85, progressive=False, restart=0):
    """A JPEG file; subsampling may also be "grey" or "rgb"."""
    if subsampling in ("4:4:0", "4:1:1"):  # Pillow cannot, and takes 4:1:1 as 4:2:0
        return simplejpeg.encode_jpeg(image, quality, "RGB", subsampling.replace(":", ""))
    settings = {"subsampling": subsampling}
    if subsampling in ("grey", "rgb"):
        settings = {"keep_rgb": True} if subsampling == "rgb" else {}
    if restart:
        settings["restart_marker_blocks"] = restart
    buffer = io.BytesIO()
    image = Image.fromarray(image).convert("L" if subsampling == "grey" else "RGB")
    image.save(buffer, "JPEG", quality=quality, progressive=progressive, **settings)
    return buffer.getvalue()


def without(data, marker):
    """A JPEG without its segments of a kind."""
    while (start := data.find(marker)) > 0:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    return data


def smooth_image(height, width, seed=0):
    """Smooth colours with some noise, so that a wrong filter or a shift shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / (7 + c)) * np.cos(y / (11 - c)) for c in range(3)]
    noise = rng.normal(0, 10, (height, width, 3))
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def coloured_images(count, seed, side=(20, 44)):
    """JPEGs of many shapes, noise around the colour of their class."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for index in range(count):
        label = index % len(COLOURS)
        height, width = rng.integers(*side, size=2)
        noise = rng.normal(0, 40, (height, width, 3)) + list(COLOURS.values())[label]
        images.append(encode(noise.clip(0, 255).astype(np.uint8)))
        labels.append(label)
    return images, labels


def write_split(folder, split, images, labels, files=2, rows_per_group=7, names=tuple(COLOURS)):
    """A split in the Hub's own parquet layout, with the metadata that `datasets` writes."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    )
    rows = [{"bytes": data, "path": None} for data in images]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        table = pa.table(
            {"image": [rows[i] for i in part], "label": pa.array([labels[i] for i in part], "i8")},
            schema=features.arrow_schema,
        )
        path = folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=rows_per_group)


def write_image_folder(folder):
    """The images of colour_data's training split as files in folders of classes."""
    images, labels = coloured_images(61, seed=0)
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "train" / list(COLOURS)[label] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return images, labels
