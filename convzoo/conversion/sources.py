"""Find weights: a file, a folder, a repository on the Hub, or a short name of `convzoo models`.

What lies beside the weights is read with them, where it decides how the model is used: the settings
of timm and transformers (config.json), an image processor, and the licence of a Hub card.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo.conversion.published import (
    PublishedModel,
    find_published,
    published_file,
    published_models,
)
from convzoo.files import file_sha256, read_json

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights of another project, and what is said of them beside.

    Attributes:
        path: the weights file, or a folder with one.
        settings: contents of config.json; {} where there is none.
        processor: contents of preprocessor_config.json; likewise.
        hub_id: the repository; "" for files that were given.
        commit: of the repository.
        license: that its card names.
        published: the entry of the list that says what it is.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str = ""
    commit: str = ""
    license: str = ""
    published: PublishedModel | None = None


def find_source(name: str | Path, revision: str = "") -> Source:
    """Find weights by path, short name or Hub id; a download goes to the cache of the Hub.

    Args:
        name: weights file, folder, short name of `convzoo models`, or Hub id.
        revision: commit, branch or tag on the Hub; that of the list, or the newest, by default.

    Raises:
        OSError: if there is nothing of that name.
        ValueError: if a file beside the weights is damaged, or a revision is given for a file.
    """
    published = find_published(str(name)) if not Path(name).exists() else None
    hub_id = published.hub_id if published else str(name)
    if not Path(name).exists() and re.fullmatch(HUB_ID, hub_id):
        return _from_hub(hub_id, revision, published=published or _by_hub_id(hub_id))
    if revision:
        raise ValueError(f"a revision needs a model on the Hub; got {revision} for {name}")
    if published and published.download:
        return Source(path=_in_torch_cache(published), published=published)
    path = Path(published.folder) if published else Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"the source must be a weights file, a folder with one, a Hub id, or a name that "
            f"`convzoo models` lists; there is no {name}"
        )
    if path.is_file():
        known = published_file(file_sha256(path), path.name)
        if known or path.name not in WEIGHTS:
            return Source(path=path, published=known)
    folder = path if path.is_dir() else path.parent
    return Source(
        path=path,
        settings=_read_json(folder / "config.json"),
        processor=_read_json(folder / "preprocessor_config.json"),
    )


def read_settings(hub_id: str, revision: str = "") -> dict[str, Any]:
    """Read the config.json of a repository on the Hub; {} where there is none.

    Raises:
        OSError: if there is no such repository, or the Hub cannot be reached.
    """
    published = _by_hub_id(hub_id)
    revision = revision or (published.commit if published else "") or "main"
    return _read_json(_download(hub_id, "config.json", revision, needed=True))


def _by_hub_id(hub_id: str) -> PublishedModel | None:
    """Return the entry of a repository whose Hub id was given."""
    return next((model for model in published_models() if model.hub_id == hub_id), None)


def _in_torch_cache(published: PublishedModel) -> Path:
    """Return the file that torchvision downloaded; check its hash."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if not path.is_file():
        raise FileNotFoundError(
            f"{published.name} must be in the cache of torch.hub, where torchvision puts it: "
            f"{path}. Download {published.download} to there, or take a model on the Hub"
        )
    if published_file(file_sha256(path), path.name) is None:
        raise ValueError(
            f"{path} must have a SHA-256 that begins as its name ends; it is damaged. Delete it, "
            f"and download {published.download} again"
        )
    return path


def _from_hub(hub_id: str, revision: str, *, published: PublishedModel | None) -> Source:
    """Download the weights of a repository and what is beside them, all of one commit."""
    revision = revision or (published.commit if published else "") or "main"
    names = (published.file,) if published and published.file else WEIGHTS
    found = (_download(hub_id, name, revision, needed=name == names[-1]) for name in names)
    path = next(filter(None, found), None)
    if path is None:
        raise FileNotFoundError(f"{hub_id} must hold {' or '.join(names)}, at {revision}")
    snapshot = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    commit = snapshot[1] if snapshot else ""
    settings, processor, card = (
        _download(hub_id, name, commit or revision, needed=name != "README.md")
        for name in ("config.json", "preprocessor_config.json", "README.md")
    )
    return Source(
        path=path,
        settings=_read_json(settings),
        processor=_read_json(processor),
        hub_id=hub_id,
        commit=commit,
        license=license_of_card(card) if card else "",
        published=published if published and published.commit in ("", commit) else None,
    )


def _download(hub_id: str, file: str, revision: str, *, needed: bool) -> Path | None:
    """Get a file; None where the repository has none.

    Without a network it comes from the cache. What that does not know is an error if it is needed:
    settings that are not there by chance must not be taken for settings that nobody wrote.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, file, revision=revision))
    except LocalEntryNotFoundError as error:
        absent = try_to_load_from_cache(hub_id, file, revision=revision) is _CACHED_NO_EXIST
        if absent or not needed:
            return None
        raise OSError(
            f"{hub_id} must be on the Hub, or in its cache on this machine; {file} of {revision} "
            f"is not there, and the Hub cannot be reached"
        ) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise OSError(
            f"{hub_id} must be a model on the Hub that you can read, and {revision} a commit, "
            f"branch or tag of it; {error}"
        ) from error


def license_of_card(card: Path) -> str:
    """Return the licence in the metadata of a card; "" without one, or with several."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        found = (metadata_load(card) or {}).get("license", "")
    except (yaml.YAMLError, ValueError, AttributeError):  # a damaged card names none
        return ""
    return found if isinstance(found, str) else ""


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} must hold a JSON object; reading it failed: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {content!r:.100}")
    return content
