"""Where images come from: a Hub dataset or a folder, opened as a table of row groups.

`datasets` decides which files make up a split and what their columns mean; the rows are read with
pyarrow (see `convzoo.data.split`).
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec

from convzoo.data.folders import IMAGE_SUFFIXES, fingerprint, open_folder
from convzoo.data.remote import READERS, read_footer
from convzoo.data.split import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetReference:
    """Which dataset, and which of its columns; "" where there is no choice.

    Attributes:
        path: a folder of parquet files, a folder of images in one folder for each class, or a Hub
            dataset id.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of images; the only image column if "".
        label_column: column of class numbers; the only class column if "".
    """

    path: str
    name: str = ""
    revision: str = ""
    image_column: str = ""
    label_column: str = ""

    @classmethod
    def of(cls, dataset: "str | DatasetReference") -> "DatasetReference":
        """The reference itself, or one to the dataset with this path or id."""
        return cls(dataset) if isinstance(dataset, str) else dataset


def open_split(dataset: str | DatasetReference, split: str) -> Split:
    """Find the files, columns, class names and row groups of a split.

    Args:
        dataset: which one; a path or an id where nothing else needs to be said.
        split: name of the split.

    Raises:
        FileNotFoundError: if there is no such dataset or no data in it.
        ValueError: if the split or a column is not in it, or a file is no parquet file.
    """
    import datasets

    dataset = DatasetReference.of(dataset)
    path = dataset.path
    builder = _load_builder(dataset)
    by_split = {str(key): list(files) for key, files in (builder.config.data_files or {}).items()}
    if split not in by_split:
        raise ValueError(
            f"split must be one of {', '.join(by_split)} in {path}; got {split!r}. Set "
            f"data.train_split, data.eval_split or --split"
        )
    files = tuple(by_split[split])
    card = _read_card(builder, path)
    if Path(files[0]).suffix.lower() in IMAGE_SUFFIXES:
        return open_folder(path, split, by_split, card)
    if not all(file.endswith(".parquet") for file in files):
        raise ValueError(
            f"{path} must hold parquet files, or images in one local folder for each class; got "
            f"{files[0]}"
        )
    with ThreadPoolExecutor(READERS) as pool:
        footers = list(pool.map(read_footer, files))

    features = builder.info.features or datasets.Features.from_arrow_schema(
        footers[0].schema.to_arrow_schema()
    )
    image_column = _find_column(
        features, dataset.image_column, datasets.Image, "image_column", path
    )
    label_column = _find_column(
        features, dataset.label_column, datasets.ClassLabel, "label_column", path
    )
    groups, rows, sizes = [], [], []
    for number, footer in enumerate(footers):
        for group in range(footer.num_row_groups):
            meta = footer.row_group(group)
            columns = (meta.column(i) for i in range(meta.num_columns))
            groups.append((number, group))
            rows.append(meta.num_rows)
            sizes.append(
                sum(
                    column.total_uncompressed_size
                    for column in columns
                    if column.path_in_schema.split(".")[0] == image_column
                )
            )
    _check_image_columns(files, footers, image_column)
    if not sum(rows):
        raise FileNotFoundError(f"split {split!r} of {path} must hold images; it has none")
    names = [file.rsplit("/", 1)[-1] for file in files]
    hub_commit = builder.hash if files[0].startswith("hf://") else None
    return Split(
        path=path,
        split=split,
        files=files,
        label_names=tuple(features[label_column].names),
        image_column=image_column,
        label_column=label_column,
        groups=tuple(groups),
        group_rows=tuple(rows),
        group_bytes=tuple(sizes),
        footers=tuple(footers),
        fingerprint=fingerprint(names, groups, rows, sizes),
        card=card,
        revision=hub_commit,
    )


def open_splits(dataset: str | DatasetReference, splits: Sequence[str] = ()) -> list[Split]:
    """Open several splits, so that what is wrong with one shows before work begins.

    Args:
        dataset: as for `open_split`.
        splits: which ones; all, in the dataset's own order, if empty.

    Raises:
        FileNotFoundError: if there is no such dataset, or a split is empty.
        ValueError: as `open_split`.
    """
    names = list(splits) or split_names(dataset)
    sources = []
    for split in names:
        try:
            sources.append(open_split(dataset, split))
        except FileNotFoundError as error:
            if splits:
                raise
            raise FileNotFoundError(f"{error}{leave_out_advice(split, names)}") from error
    return sources


def leave_out_advice(split: str, names: Sequence[str]) -> str:
    """What to append to a message about one of several splits that a command was given."""
    others = " ".join(name for name in names if name != split)
    return f". Leave split {split!r} out with --splits {others}" if others else ""


def split_names(dataset: str | DatasetReference) -> list[str]:
    """Splits of a dataset, in its own order.

    Args:
        dataset: as for `open_split`.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if it is a script.
    """
    builder = _load_builder(DatasetReference.of(dataset))
    return [str(split) for split in builder.config.data_files or {}]


def _load_builder(dataset):
    import datasets
    import yaml

    path = dataset.path
    try:
        return datasets.load_dataset_builder(
            path, dataset.name or None, revision=dataset.revision or None
        )
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in str(error):
            raise ConnectionError(
                f"the Hub could not be reached for the dataset {path!r}; try again, or give a "
                f"folder. ({error})"
            ) from error
        raise FileNotFoundError(
            f"data.path must be a folder with parquet files or a Hub dataset id that this account "
            f"may read; got {path!r}. For a gated dataset accept its terms on its Hub page, then "
            f"run `hf auth login`. ({error})"
        ) from error
    except RuntimeError as error:  # a dataset that is a script
        raise ValueError(
            f"{path} must be data, not a script: convert it to parquet; {error}"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"README.md of {path} must start with valid YAML; {error}") from error


def _find_column(features, wanted, kind, setting, path):
    known = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted in known:
        return wanted
    if not wanted and len(known) == 1:
        return known[0]
    option = f"data.{setting} (--{setting.replace('_', '-')})"
    if not wanted and known:
        raise ValueError(
            f"{path} must have exactly one column of type {kind.__name__}; got {', '.join(known)}. "
            f"Choose one with {option}"
        )
    message = f"{path} must have a column of type {kind.__name__}; got none among {list(features)}"
    if wanted:
        message = (
            f"{option} must name a column of type {kind.__name__} of {path}, one of "
            f"{', '.join(known) or 'none'}; got {wanted!r}"
        )
    if not known or wanted in features:
        names = "names=[...]" if kind.__name__ == "ClassLabel" else ""
        column = wanted or setting.removesuffix("_column")
        message += (
            f". A column of another type must be cast, as ds.cast_column({column!r}, "
            f"datasets.{kind.__name__}({names}))"
        )
    raise ValueError(message)


def _check_image_columns(files, footers, image_column):
    for file, footer in zip(files, footers, strict=True):
        paths = [footer.schema.column(number).path for number in range(footer.num_columns)]
        if f"{image_column}.bytes" not in paths:
            raise ValueError(
                f"{file} must hold its images as {image_column}.bytes, as Dataset.to_parquet "
                f"writes them; it has {', '.join(paths)}. Rewrite it: "
                f"datasets.load_dataset(...)[split].to_parquet(FILE)"
            )


def _read_card(builder, path):
    """Front matter of the dataset's README."""
    import yaml

    readme = f"{builder.base_path or path}/README.md"
    try:
        with fsspec.open(readme, "r", encoding="utf-8") as handle:
            text = handle.read()
    except FileNotFoundError:
        return {}
    parts = text.split("---\n", 2)
    try:
        return (yaml.safe_load(parts[1]) or {}) if len(parts) == 3 and not parts[0] else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{readme} must start with valid YAML between --- lines; {error}"
        ) from error
