"""Read weights files of other projects; none of their code is run.

Pickles go through PyTorch's restricted unpickler; what asks for more is refused, and named.
"""

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeGuard

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling.modeling_convzoo import COUNTS_OF_AVERAGES, WRAPPERS

# Where training scripts keep the weights in a checkpoint; moving averages first, as timm does.
DICTIONARIES = ("state_dict_ema", "model_ema", "state_dict", "model")
# Where modules of training frameworks, such as Lightning, keep their network.
ATTRIBUTES = r"^(?:model|net|network|backbone|encoder|ema_model)\.(?:_orig_mod\.|module\.)*"
SHOWN = 12  # names that an error message lists
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
STATES = re.compile("optimizer|scheduler|scaler|training_|rng_|random_")  # of trainings: no weights


def read_weights(source: Path) -> tuple[Path, str, dict[str, Tensor]]:
    """Find and read the state dict of a weights file, a checkpoint or a folder with one.

    Args:
        source: weights file, or folder with a model.safetensors, a pytorch_model.bin or, without
            these, one file that has the suffix of weights.

    Returns:
        The file, where in it the tensors were, in words, and the tensors by name without the
        prefixes of torch.compile, DistributedDataParallel and modules that hold the network.

    Raises:
        ValueError: if the file is damaged, needs code of others, holds no named tensors, or those
            of several networks.
        OSError: if it is missing.
    """
    path = _weights_file(source)
    return path, *_find_weights(_read(path), path)


def _weights_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    files = sorted(path.name for path in source.iterdir())
    weights = [name for name in files if name.endswith(WEIGHTS) and not STATES.match(name)]
    if len(weights) == 1:
        return source / weights[0]
    raise FileNotFoundError(
        f"{source} must hold model.safetensors, pytorch_model.bin or one file of weights; it has "
        f"{files[:SHOWN]}. Give the weights file itself."
    )


def _read(path: Path) -> Any:
    """Read a safetensors or PyTorch file; nothing in it is run."""
    with path.open("rb") as file:
        start = file.read(16)
    try:
        if start[8:9] == b"{":  # safetensors: 8 bytes of length, then JSON
            return load_file(path)
        namespace = torch.serialization.safe_globals([argparse.Namespace])  # timm's `args`
        with namespace, warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes a parser raise anything
        foreign = re.findall(r"GLOBAL (\S+)", str(error)) or _foreign_names(path)
        if foreign:
            raise ValueError(
                f"{path} must hold only tensors and plain values; it asks for the code "
                f"{', '.join(dict.fromkeys(foreign))}, and none of it was run. Get the weights "
                "from a source you trust, as safetensors or as a plain state dict."
            ) from error
        # PyTorch's own advice, to load without weights_only, would run what is in the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or repr(error)
        raise ValueError(
            f"{path} must be a whole safetensors or PyTorch file; it starts with {start!r}, and "
            f"reading it failed: {re.split(r'[.] |[.]?$', reason, flags=re.M)[0]}. Download or "
            "copy it again."
        ) from error


def _foreign_names(path: Path) -> list[str]:
    """List what pickles that PyTorch's unpickler cannot follow would import from elsewhere."""
    names: list[str] = []
    strings: list[str] = []
    with suppress(Exception), path.open("rb") as file:  # as above; the caller reports the first
        pickles: IO[bytes] = file
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            pickles = archive.open(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        else:
            file.seek(0)
        while True:  # pickles may follow each other; what comes after the last is an error
            for opcode, argument, _ in pickletools.genops(pickles):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    own = ("torch.", "collections.", "_codecs.")
    return [name for name in names if not name.startswith(own)]


def _find_weights(content: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Say where the state dict was, and return its tensors by name without prefixes."""
    content = content if isinstance(content, Mapping) else {}
    found = [key for key in DICTIONARIES if _is_state_dict(content.get(key))]
    if not found and not _is_state_dict(content):
        raise ValueError(
            f"{path} must hold named tensors, by themselves or under one of "
            f"{', '.join(DICTIONARIES)}; it has {list(content)[:SHOWN]}"
        )
    weights = content[found[0]] if found else content
    weights = {
        name: tensor
        for name, tensor in weights.items()
        if not any(re.search(pattern, name) for pattern in COUNTS_OF_AVERAGES)
    }
    stripped = {re.sub(WRAPPERS, "", name): tensor for name, tensor in weights.items()}
    if len(stripped) < len(weights):
        raise ValueError(f"{path} must name each tensor once, not also with a prefix")
    prefixes = [re.match(ATTRIBUTES, name) for name in stripped]
    if all(prefixes):
        bare = {re.sub(ATTRIBUTES, "", name): tensor for name, tensor in stripped.items()}
        if len(bare) < len(stripped):
            found_prefixes = sorted({prefix[0] for prefix in prefixes if prefix})
            raise ValueError(
                f"{path} must hold one network; it has {len(stripped) - len(bare)} tensors more "
                f"than once, under the prefixes {', '.join(found_prefixes)}. Save the tensors of "
                f"one prefix, such as the averaged ones, to a file of their own and give that"
            )
        stripped = bare
    others = f" (it also has {', '.join(found[1:])})" if len(found) > 1 else ""
    return f"its {found[0]}{others}" if found else "the whole file", stripped


def _is_state_dict(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(content, Mapping) and 0 < len(content) == sum(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_meta
        for name, value in content.items()
    )
