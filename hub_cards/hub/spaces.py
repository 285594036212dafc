"""Build and push the Space that shows image classifiers.

It is made in a folder, from files of this checkout and from what the Hub tells about the models,
checked there by the Hub's rules, and pushed like a model folder. What it shows is decided by its
files alone: models with their commits, versions, images. So a copy of it shows the same.
"""

import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # a lazy name

from hub_cards.card.validation import RULES, split_card
from hub_cards.files import Record
from hub_cards.hub.access import check_repo_id, open_hub
from hub_cards.hub.push_errors import PushError, failure, persist
from hub_cards.hub.pushing import DEFAULTS, PushOptions, PushResult, push_stage
from hub_cards.hub.space_staging import copy_file, finish_space, pinned, write_lines
from hub_cards.hub.staging import stage_model

logger = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parent.parent.parent
NEEDED = ("config.json", "preprocessor_config.json", "*.safetensors")
APP_FILES = (*NEEDED, "*.json", "*.py", "README.md", "examples/*")  # what app.py downloads
# All CC0-1.0, and of things that ImageNet has classes for.
EXAMPLE_IMAGES = (
    "bison.jpg", "igloo.jpg", "jaguars.jpg", "phillips_screwdriver.jpg", "red_panda.jpg",
    "ring_tailed_lemurs.jpg", "scarlet_macaw.jpg", "spotted_puffer.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class SpaceModel:
    """A model that a Space shows.

    Attributes:
        name: what to call it.
        place: its line in models.txt: a folder of the Space, or ID@COMMIT.
        license: as its card says, or "".
        datasets: ids, as its card says.
        has_examples: whether it comes with images.
        repo_id: where it is on the Hub, or "" if it lies in the Space.
        commit: of that.
        files: those that the page downloads.
        restricted: whether the Space needs a token to read it.
    """

    name: str
    place: str
    license: str
    datasets: tuple[str, ...]
    has_examples: bool
    repo_id: str = ""
    commit: str = ""
    files: tuple[str, ...] = ()
    restricted: bool = False


def push_space(
    models: Sequence[str],
    repo_id: str,
    *,
    gpu: bool = False,
    options: PushOptions = DEFAULTS,
) -> PushResult:
    """Make a Space on the Hub show image classifiers, with one commit at most.

    Args:
        models: see `build_space`.
        repo_id: the Space, as user/name; created if it does not exist.
        gpu: see `build_space`.
        options: how; `force` replaces files of a Space that was made or edited by hand.

    Raises:
        PushError: if the Space could not be made to hold these files; and nothing else.
    """
    with tempfile.TemporaryDirectory(prefix="hub_cards-") as stage:
        anonymous = options.dry_run
        left_out = build_space(models, repo_id, target=stage, gpu=gpu, anonymous=anonymous)
        return push_stage("space", Path(stage), repo_id=repo_id, left_out=left_out, options=options)


def build_space(
    models: Sequence[str],
    repo_id: str,
    *,
    target: str | Path,
    gpu: bool = False,
    anonymous: bool = True,
) -> tuple[str, ...]:
    """Write the files of a Space that shows image classifiers.

    It runs with `python app.py` wherever gradio and its requirements are installed.

    Args:
        models: model folders, whose files are copied, or ids on the Hub with or without @REVISION,
            of which the Space notes the commit.
        repo_id: where it is to be on the Hub, as user/name.
        target: an empty folder.
        gpu: install the PyTorch for CUDA, and suggest a GPU as hardware; else the one for CPUs.
        anonymous: whether models may be looked up without a token.

    Returns:
        Names of what is no part of a model folder and was left out.

    Raises:
        PushError: with reason "folder" if a model folder or the Space is not complete, "name" if
            there is no such model; and those of contact with the Hub.
    """
    check_repo_id(repo_id)
    folder = Path(target)
    left_out: tuple[str, ...] = ()
    found: list[SpaceModel] = []
    api: HfApi | None = None
    for model in models:
        if Path(model).is_dir():
            bundled, without = _bundle(Path(model), folder)
            left_out += without
            found.append(bundled)
        else:
            api = api or open_hub(anonymous)
            found.append(_look_up(model, api))
    copy_file(CHECKOUT / "app.py", folder / "app.py")
    write_lines(folder / "models.txt", [model.place for model in found])
    if not found[0].has_examples:  # the page takes those of the first model
        _add_example_images(folder / "examples")
    for shown in found:
        secret = ": the Space needs a secret HF_TOKEN that may read it" if shown.restricted else ""
        logger.info(f"model {shown.place}{secret}")
    metadata: Record = {
        "title": " / ".join(model.name for model in found),
        "emoji": "\N{CAMERA}",
        "short_description": "Image classifiers, what they look at, and an API",
        "models": list(dict.fromkeys(model.repo_id for model in found if model.repo_id)),
        "datasets": list(dict.fromkeys(id for model in found for id in model.datasets)),
        "preload_from_hub": list(_preloads(found))[: RULES["space"]["max_preloads"]],
    }
    # No code of theirs imports these, but their versions decide how weights are read.
    requirements = pinned(folder, "numpy", "safetensors")
    finish_space(
        folder,
        "space.md.jinja",
        repo_id=repo_id,
        metadata=metadata,
        requirements=requirements,
        context={"found": found},
        gpu=gpu,
    )
    return left_out


def _bundle(source: Path, folder: Path) -> tuple[SpaceModel, tuple[str, ...]]:
    """Copy a model folder into the Space; return the model, and names of what was left out."""
    stage = folder / "models" / "new"
    stage.mkdir(parents=True)
    left_out = stage_model(source, stage, None)
    metadata, body = split_card((stage / "README.md").read_text(encoding="utf-8"))
    title = re.search(r"^# (.+)$", body, re.MULTILINE)
    name = re.sub(r"[^\w.-]+", "-", title[1] if title else source.resolve().name)
    place, number = stage.with_name(name), 2
    while place.exists():
        place, number = stage.with_name(f"{name}-{number}"), number + 1
    stage.rename(place)
    model = SpaceModel(
        name=place.name,
        place=f"models/{place.name}",
        **_from_card(metadata),
        has_examples=any((place / "examples").glob("*")),
    )
    return model, left_out


def _look_up(model: str, api: HfApi) -> SpaceModel:
    """Ask the Hub about a model."""
    repo_id, _, revision = model.partition("@")

    def explain(error: Exception) -> PushError:
        if isinstance(error, RevisionNotFoundError):
            return PushError("name", f"{repo_id} has no revision {revision!r}")
        if isinstance(error, RepositoryNotFoundError | HFValidationError):
            return PushError(
                "name",
                f"a model must be a folder here, or an id on the Hub that this token may see; got "
                f"{model!r}",
            )
        user = "this session"
        return failure(error, repo_id, revision=revision, endpoint=api.endpoint, user=user)

    info = persist(lambda: api.model_info(repo_id, revision=revision or None), explain)
    commit = str(info.sha)
    names = [file.rfilename for file in info.siblings or []]
    missing = [name for name in NEEDED if not list(filter_repo_objects(names, allow_patterns=name))]
    if missing:
        raise PushError("folder", f"{repo_id} lacks {', '.join(missing)}, which the page needs")
    card = info.card_data
    metadata = card.to_dict() if card else {}  # type: ignore[no-untyped-call]  # the library's
    files = tuple(filter_repo_objects(names, allow_patterns=list(APP_FILES)))
    return SpaceModel(
        name=repo_id.split("/")[-1],
        place=f"{repo_id}@{commit}",
        **_from_card(metadata),
        has_examples=any(name.startswith("examples/") for name in files),
        repo_id=repo_id,
        commit=commit,
        files=files,
        restricted=bool(info.private or info.gated),
    )


def _from_card(metadata: Record) -> Record:
    values = (metadata.get(key) or [] for key in ("license", "datasets"))
    licenses, datasets = ([value] if isinstance(value, str) else value for value in values)
    return {"license": ", ".join(licenses), "datasets": tuple(datasets)}


def _preloads(models: Iterable[SpaceModel]) -> Iterator[str]:
    """Name what the Hub is to download while it builds the Space, without the Space's secrets."""
    for model in models:
        if model.repo_id and not model.restricted:
            files = [name for name in model.files if not re.search(r"[\s,]", name)]
            yield f"{model.repo_id} {','.join(files)} {model.commit}"


def _add_example_images(folder: Path) -> None:
    photos, kept = CHECKOUT / "data" / "photos", ("file", "---", *EXAMPLE_IMAGES)
    folder.mkdir()
    for name in EXAMPLE_IMAGES:
        copy_file(photos / name, folder / name)
    lines = (photos / "CREDITS.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if not line.startswith("| ") or line.split(" ")[1] in kept]
    write_lines(folder / "CREDITS.md", rows)
