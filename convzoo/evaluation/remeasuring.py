"""Measure again what the results of a model folder claim: the process behind `hub_cards verify`.

It knows nothing of cards. The request, the arguments of `reevaluate` as JSON, comes on standard
input; the answer goes to the file that is the only argument. Data is taken for that of a result if
its contents have the recorded fingerprint, whatever its name.

    python -P -m convzoo.evaluation.remeasuring ANSWER < REQUEST
"""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm
from transformers.dynamic_module_utils import (
    get_class_from_dynamic_module,
    get_relative_import_files,
)
from transformers.utils.logging import disable_progress_bar

import modeling
from convzoo.allocator import keep_freed_memory
from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.stream import eval_rows
from convzoo.data.subset import choose_rows, subset
from convzoo.environment import describe_environment
from convzoo.errors import user_message
from convzoo.evaluation.predicting import predict_split
from convzoo.evaluation.statistics import break_down
from convzoo.files import write_json

AUTO_CLASSES = {
    "config.json": ("AutoConfig", "AutoModelForImageClassification"),
    "preprocessor_config.json": ("AutoImageProcessor",),
}
ADAPTER = "adapter_config.json"  # with peft, Transformers would load what it names
OTHER = "their fingerprint is not the recorded one"


def reevaluate(
    folder: str,
    results: Sequence[dict],
    data: Sequence[str],
    split: str = "",
    image_column: str = "",
    label_column: str = "",
    sample: int = 0,
    seed: int = 0,
    trust_remote_code: bool = False,
    batch_size: int = 64,
    num_workers: int = 2,
) -> dict:
    """Load a model strictly and repeat its measurements, as far as their data is there.

    Args:
        folder: the model folder.
        results: entries of `eval_results.json`.
        data: folders and Hub dataset ids to look for the images of the results in.
        split: the split to look in; the recorded one if "".
        image_column: column of images; the only image column if "".
        label_column: column of class numbers; the only class column if "".
        sample: images to draw at random, without replacement, for each result; all if 0.
        seed: of the drawing.
        trust_remote_code: run the classes of the folder's own code instead of this package's.
        batch_size: images per step.
        num_workers: decoding processes.

    Returns:
        `environment`, `loaded` (see `load_strictly`) and `results`: for each result a `reason` why
        it was not measured again, or its `data`, how that was `identified`, `num_images`, how many
        of them were `seen`, how many of these were hits (`top1_accuracy`, `top5_accuracy`), mean
        and standard deviation of the loss (`loss`, `loss_deviation`), and `classes` and
        `calibration` as in the result.
    """
    environment = describe_environment()
    loaded, model, processor = load_strictly(Path(folder), trust_remote_code)
    answers = [{"reason": "the model could not be loaded"} for _ in results]
    if model is not None:
        accelerator = Accelerator(mixed_precision="no")
        model.to(accelerator.device)
        options = (split, image_column, label_column)
        for number, result in enumerate(results):
            try:
                found = find_data(result, data, *options, model.config.num_labels)
                if isinstance(found, str):
                    answers[number] = {"reason": found}
                    continue
                answers[number] = _measure(
                    *(model, processor, result, *found, accelerator),
                    *(sample, seed, batch_size, num_workers),
                )
            except Exception as error:  # the result and the code may be anybody's
                answers[number] = {"reason": f"{type(error).__name__}: {user_message(error)}"}
    return {"environment": environment, "loaded": loaded, "results": answers}


def load_strictly(folder: Path, trust_remote_code: bool = False):
    """Load weights from model.safetensors and nothing else, all of them and no others.

    Args:
        folder: the model folder.
        trust_remote_code: run the classes of the folder's own code instead of this package's.

    Returns:
        What is known of it: `code` (a class), `files` (whether each file of code in the folder has
        the text of this package's), and an `error` or None; then model and image processor, both
        None after an error.
    """
    facts, model, processor = {"code": None, "files": {}, "error": None}, None, None
    try:
        references, named = {}, set()
        for name, keys in AUTO_CLASSES.items():
            auto_map = json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"]
            references |= {key: auto_map[key] for key in keys}
            named |= set(auto_map.values())  # also what other classes of Transformers would run
        if any("--" in reference for reference in named):
            raise ValueError(f"auto_map must name code of this folder only; got {sorted(named)}")
        files = {f"{each.partition('.')[0]}.py" for each in named}
        for name in sorted(files):  # and what these would import
            files |= {Path(path).name for path in get_relative_import_files(folder / name)}
        facts["files"] = {name: _is_ours(folder, name) for name in sorted(files)}
        if trust_remote_code:
            classes = [get_class_from_dynamic_module(each, folder) for each in references.values()]
        else:
            classes = _our_classes(folder)
        config_class, model_class, processor_class = classes
        facts["code"] = f"{model_class.__module__}.{model_class.__qualname__}"
        config = config_class.from_pretrained(folder)
        if getattr(config, "transformers_weights", None) or (folder / ADAPTER).exists():
            raise ValueError(
                "weights must come from model.safetensors only, without transformers_weights in "
                f"config.json and without {ADAPTER}"
            )
        model, said = model_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
        )
        wrong = {key: sorted(map(str, value)) for key, value in said.items() if value}
        if wrong:
            raise ValueError(f"weights and model do not fit: {json.dumps(wrong)}")
        processor = processor_class.from_pretrained(folder)
    except Exception as error:  # the code may be anybody's
        facts["error"] = f"{type(error).__name__}: {error}"
        return facts, None, None
    return facts, model, processor


def _is_ours(folder, name):
    ours, theirs = Path(modeling.__file__).with_name(name), folder / name
    return ours.is_file() and ours.read_text("utf-8") == theirs.read_text("utf-8")


def _our_classes(folder):
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    families = {each.model_type: (each, model) for each, model in modeling.FAMILIES.items()}
    if model_type not in families:
        raise ValueError(
            f"model_type must be one of {', '.join(families)} to be loaded without the folder's "
            f"own code; got {model_type!r}"
        )
    return *families[model_type], modeling.ConvZooImageProcessor


def find_data(
    result: dict,
    data: Sequence[str],
    split: str,
    image_column: str,
    label_column: str,
    num_labels: int,
) -> tuple[Split, str] | str:
    """The images that a result was measured on, among the given data.

    Args:
        result: an entry of `eval_results.json`.
        data: folders and Hub dataset ids.
        split: the split to look in; the recorded one if "".
        image_column: column of images; the only image column if "".
        label_column: column of class numbers; the only class column if "".
        num_labels: classes of the model.

    Returns:
        The images, and "fingerprint" or, of a dataset on the Hub, of which not all need be read
        then, "commit"; or why they were not found.
    """
    recorded, reasons = result["dataset"], []
    for path in data:
        known = path in (recorded.get("id"), recorded.get("path"))
        on_hub = path == recorded.get("id")
        dataset = DatasetReference(
            path,
            (known and recorded.get("config")) or "",
            (on_hub and recorded.get("revision")) or "",
            image_column,
            label_column,
        )
        where = f"{path} [{split or recorded['split']}]"
        try:
            source = open_split(dataset, split or recorded["split"])
            # A model of some classes only knows their new numbers.
            renumber = num_labels != len(source.label_names)
            for step in (recorded.get("subset") or {}).get("taken", ()):
                source = subset(source, renumber=renumber, **step)
        except (OSError, ValueError) as error:
            reasons.append(f"{where}: {error}")
            continue
        if len(source.label_names) != num_labels:
            reasons.append(f"{where} has {len(source.label_names)} classes, the model {num_labels}")
        elif source.num_rows != recorded["num_samples"]:
            reasons.append(
                f"{where} has other images: {source.num_rows:,}, not {recorded['num_samples']:,}"
            )
        elif on_hub and source.revision == recorded.get("revision"):
            return source, "commit"
        elif content_fingerprint(source) == recorded["fingerprint"]:
            return source, "fingerprint"
        else:
            reasons.append(f"{where} has other images: {OTHER}")
    return "; ".join(reasons) or "no data was given for it"


def content_fingerprint(source: Split) -> str:
    """The fingerprint that an evaluation records: SHA-256 over encoded images and labels."""
    digests = hashlib.sha256()
    bar = tqdm(total=source.num_rows, desc="fingerprint", unit=" images", leave=False)
    with bar:
        for _, data, label in eval_rows(source, 0, 1):
            digests.update(hashlib.sha256(data).digest() + label.to_bytes(4, "little"))
            bar.update()
    return f"sha256:{digests.hexdigest()}"


def draw(source: Split, count: int, seed: int) -> Split:
    """`count` images of a source, drawn at random without replacement; all if there are no more."""
    if count >= source.num_rows:
        return source
    rows = np.random.default_rng(seed).choice(source.num_rows, count, replace=False)
    return dataclasses.replace(source, **choose_rows(source, np.sort(rows)))


def _measure(
    model, processor, result, source, identified, accelerator, sample, seed, batch_size, num_workers
):
    protocol = result["protocol"]
    crops = protocol["views"]
    if crops not in (1, 10):
        raise ValueError(f"views must be 1 or 10 to be repeated; got {crops}")
    published = processor.to_dict()
    changed = {
        key: value
        for key, value in protocol["image_processor"].items()
        if key in published and key != "auto_map" and published[key] != value
    }
    if changed:
        processor = type(processor)(**published | changed)
    drawn = draw(source, sample, seed) if sample else source
    predictions = predict_split(
        *(model, processor, drawn, accelerator, batch_size, num_workers, crops),
        exif_rotation=protocol.get("exif_rotation", False),
    )
    if drawn is source:
        if predictions.fingerprint != result["dataset"]["fingerprint"]:
            raise ValueError(f"{source.path} has other images: {OTHER}")
        identified = "fingerprint"
    labels, names = predictions.labels, model.config.id2label
    names = [names[number] for number in range(model.config.num_labels)]
    details = break_down(labels, predictions.ranked, predictions.confidences, names)
    hits, losses = predictions.ranked == predictions.labels[:, None], predictions.losses
    return {
        "data": source.path,
        "split": source.split,
        "identified": identified,
        "num_images": source.num_rows,
        "seen": drawn.num_rows,
        "top1_accuracy": int(hits[:, 0].sum()),
        "top5_accuracy": int(hits.any(axis=1).sum()),
        "loss": float(losses.mean(dtype=np.float64)),
        "loss_deviation": float(losses.std(dtype=np.float64, ddof=min(1, len(losses) - 1))),
        **{key: details[key] for key in ("classes", "calibration")},
    }


def main() -> None:
    """Answer one request."""
    disable_progress_bar()
    keep_freed_memory()
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        write_json(Path(sys.argv[1]), reevaluate(**json.load(sys.stdin)))
    except KeyboardInterrupt:  # comes to both processes; the other one speaks
        sys.exit(130)


if __name__ == "__main__":
    main()
