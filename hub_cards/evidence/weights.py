"""Read the header and the hash of a safetensors file."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BUFFER_NAMES = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Weights:
    """The content of model.safetensors; sizes in bytes and elements."""

    sha256: str
    num_bytes: int
    num_parameters: int
    num_buffer_elements: int
    dtypes: tuple[str, ...]


def read_weights(folder: Path) -> Weights:
    """Read model.safetensors in a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no safetensors file.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"model.safetensors is missing in {folder}; a card describes finished weights"
        )
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            header.pop("__metadata__", None)
            tensors = {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return weights_of(tensors, sha256=sha256, num_bytes=path.stat().st_size)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} must be a safetensors file; its header cannot be read ({error}). "
                "Save the model again."
            ) from error


def weights_of(
    tensors: Mapping[str, tuple[str, Sequence[int]]], *, sha256: str, num_bytes: int
) -> Weights:
    """Sum up the header of a safetensors file.

    Args:
        tensors: type and shape by name.
        sha256: of the whole file.
        num_bytes: its size.
    """
    sizes = {name: math.prod(shape) for name, (_, shape) in tensors.items()}
    buffers = sum(size for name, size in sizes.items() if name.endswith(BUFFER_NAMES))
    return Weights(
        sha256=sha256,
        num_bytes=num_bytes,
        num_parameters=sum(sizes.values()) - buffers,
        num_buffer_elements=buffers,
        dtypes=tuple(sorted({dtype for dtype, _ in tensors.values()} - {"I64"})),
    )
