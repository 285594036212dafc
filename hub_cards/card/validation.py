"""Check the card of a model or of a Space offline, with the Hub's rules and our own.

The Hub refuses a card only when it is pushed; here all that is wrong with it is known before, and
at once. Our own rules are stricter: a card is finished or it is not published. All lists are data,
in rules.toml.
"""

import math
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from hub_cards.files import Record

RULES = tomllib.loads(Path(__file__).with_name("rules.toml").read_text(encoding="utf-8"))
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
FENCE = re.compile(r"^(```+|~~~+).*?^\1[^\S\n]*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!\\)`[^`\n]*`")  # within a line
HUB = "https://huggingface.co/"
HEADING = re.compile(r"^(#+) +(.+?)[ #]*$", re.MULTILINE)
LINK = re.compile(
    r"(?<!\\)\]\(<?([^)\s>]+)"  # ](TARGET), unless its bracket is escaped
    r"|(?<!\\)<[^>]*?\b(?:src|href)=[\"']([^\"']+)"
)


def card_problems(card: str, folder: str | Path) -> list[str]:
    """List everything that is wrong with a model card.

    Args:
        card: the text of a README.md.
        folder: the repository's root, where relative links point.

    Returns:
        One sentence for each problem, none for a good card.
    """
    try:
        metadata, body = split_card(card)
    except ValueError as error:
        return [str(error)]
    return [
        *_metadata_problems(metadata, folder),
        *_model_index_problems(metadata.get("model-index", [])),
        *_section_problems(body),
        *_unfinished_problems(card),
        *_cell_problems(body),
        *_link_problems(body, Path(folder)),
    ]


def space_problems(folder: str | Path) -> list[str]:
    """List everything that is wrong with the card and the requirements of a Space.

    Args:
        folder: the Space, with its README.md and requirements.txt.

    Returns:
        One sentence for each problem, none for a good Space.
    """
    folder = Path(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    try:
        metadata, body = split_card(card)
    except ValueError as error:
        return [str(error)]
    return [
        *_space_metadata_problems(metadata, folder),
        *_license_problems(metadata, folder),
        *_unfinished_problems(card),
        *_link_problems(body, folder),
        *(
            f"requirements.txt must name exact public versions, as torch==2.8.0; got {line!r}"
            for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
            if line != RULES["space"]["requirement_index"]
            and not re.fullmatch(RULES["space"]["requirement_pattern"], line)
        ),
    ]


def is_default_space_card(card: str) -> bool:
    """Tell whether this is the card that the Hub itself puts into a new Space."""
    try:
        return split_card(card)[1].strip() in RULES["space"]["default_bodies"]
    except ValueError:
        return False


def split_card(card: str) -> tuple[Record, str]:
    """The metadata of a card, and its body.

    Raises:
        ValueError: if it does not start with metadata.
    """
    card = card.replace("\r\n", "\n")
    match = FRONT_MATTER.match(card)
    if not match:
        raise ValueError("the card must start with metadata between two lines of ---")
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise ValueError(f"the metadata must be valid YAML; {message}") from error
    if not isinstance(metadata, dict):
        raise ValueError("the metadata must be keys with values, as in `license: mit`")
    return metadata, card[match.end() :]


def _space_metadata_problems(metadata: Record, folder: Path) -> Iterator[str]:
    rules = RULES["space"]
    for key in rules["required"]:
        if not metadata.get(key):
            yield f"metadata must have {key}"
    for key, allowed in rules["choices"].items():
        if key in metadata and metadata[key] not in allowed:
            yield f"{key} must be one of {', '.join(allowed)}; got {metadata[key]!r}"
    for key, pattern in rules["patterns"].items():
        values = metadata.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                yield f"{key} must be text that matches {pattern}; got {value!r}"
    if len(metadata.get("preload_from_hub", [])) > rules["max_preloads"]:
        yield f"preload_from_hub must name at most {rules['max_preloads']} repositories"
    if not (folder / str(metadata.get("app_file"))).is_file():
        yield f"app_file must be a file of the Space; got {metadata.get('app_file')!r}"


def _metadata_problems(metadata: Record, folder: str | Path) -> Iterator[str]:
    rules = RULES["metadata"]
    for key in rules["required"]:
        if not metadata.get(key):
            yield f"metadata must have {key}"
    yield from _license_problems(metadata, folder)
    tag = metadata.get("pipeline_tag")
    if tag and tag not in rules["pipeline_tags"]:
        yield f"pipeline_tag must be a task of the Hub, as image-classification; got {tag!r}"
    for key in rules["lists_of_text"]:
        value = metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            yield f"{key} must be a list of texts; got {value!r}"
        elif key == "datasets":
            yield from (
                f"datasets must hold Hub ids, as ILSVRC/imagenet-1k; got {item!r}"
                for item in value
                if not re.fullmatch(rules["id_pattern"], item)
            )
    base, relation = metadata.get("base_model"), metadata.get("base_model_relation")
    for item in base if isinstance(base, list) else [base]:
        if item is not None and not re.fullmatch(rules["id_pattern"], str(item)):
            yield f"base_model must be a Hub id, as timm/resnet50.a1_in1k; got {item!r}"
    if relation is not None and relation not in rules["base_model_relations"]:
        known = ", ".join(rules["base_model_relations"])
        yield f"base_model_relation must be one of {known}; got {relation!r}"
    emissions = metadata.get("co2_eq_emissions")
    if isinstance(emissions, dict):
        emissions = emissions.get("emissions")
    if emissions is not None and not (_is_number(emissions) and emissions >= 0):
        yield f"co2_eq_emissions must be grams, a number of at least 0; got {emissions!r}"


def _license_problems(metadata: Record, folder: str | Path) -> Iterator[str]:
    licenses = metadata.get("license") or []
    for identifier in licenses if isinstance(licenses, list) else [licenses]:
        if identifier not in RULES["metadata"]["licenses"]:
            yield f"license must be an identifier of the Hub, as apache-2.0; got {identifier!r}"
        elif identifier == "other":
            text = metadata.get("license_link") or (Path(folder) / "LICENSE").is_file()
            if not (metadata.get("license_name") and text):
                yield (
                    "license 'other' needs license_name, and license_link or a file LICENSE; "
                    "run.license_name of recipe.toml gives the name"
                )


def _model_index_problems(index: object) -> Iterator[str]:
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        yield f"model-index must be a list of models; got {index!r}"
        return
    for i, model in enumerate(index):
        if not isinstance(model.get("name"), str) or not model["name"]:
            yield f"model-index[{i}] must have a name"
        results = model.get("results")
        if not isinstance(results, list) or not results:
            yield f"model-index[{i}].results must be a list with results; got {results!r}"
            continue
        for j, result in enumerate(results):
            yield from _result_problems(result, f"model-index[{i}].results[{j}]")


def _result_problems(result: object, where: str) -> Iterator[str]:
    def get(key: str, name: str) -> Any:
        part = result.get(key) if isinstance(result, dict) else None
        return part.get(name) if isinstance(part, dict) else None

    if not get("task", "type"):
        yield f"{where} must have task.type"
    dataset_type = get("dataset", "type")
    pattern = RULES["metadata"]["id_pattern"]
    if not isinstance(dataset_type, str) or not re.fullmatch(pattern, dataset_type):
        yield f"{where}.dataset.type must look like a Hub dataset id; got {dataset_type!r}"
    if not get("dataset", "name"):
        yield f"{where} must have dataset.name"
    metrics = result.get("metrics") if isinstance(result, dict) else None
    if not isinstance(metrics, list) or not metrics:
        yield f"{where}.metrics must be a list with metrics; got {metrics!r}"
        return
    yield from _metric_problems(metrics, where)


def _metric_problems(metrics: list[object], where: str) -> Iterator[str]:
    seen: set[object] = set()
    for k, one in enumerate(metrics):
        metric: Record = one if isinstance(one, dict) else {}
        if not metric.get("type"):
            yield f"{where}.metrics[{k}] must have a type"
        value = metric.get("value")
        if not _is_number(value) or not math.isfinite(value):
            yield f"{where}.metrics[{k}].value must be a finite number; got {value!r}"
        elif metric.get("type") == "accuracy" and not 0 <= value <= 1:
            yield f"{where}.metrics[{k}].value must be a fraction in [0, 1]; got {value}"
        identity = (metric.get("type"), metric.get("name"))
        if identity in seen:
            yield f"{where} has two metrics {identity}; give them different names"
        seen.add(identity)


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float)


def _section_problems(body: str) -> Iterator[str]:
    """Sections must exist, say something, and say "Not measured." only alone."""
    text = FENCE.sub("code", body)
    headings = list(HEADING.finditer(text))
    contents = {}
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        end = following.start() if following else len(text)
        contents[heading[2]] = re.sub(r"<!--.*?-->", "", text[heading.end() : end]).strip()
    for title in RULES["body"]["sections"]:
        if title not in contents:
            yield f"section '{title}' is missing"
    for title, content in contents.items():
        if "Not measured." in content and content != "Not measured.":
            yield f"section '{title}' must say 'Not measured.' alone, or what was measured"
        elif not content:
            yield f"section '{title}' is empty"


def _unfinished_problems(card: str) -> Iterator[str]:
    for pattern in RULES["body"]["unfinished"]:
        if match := re.search(pattern, card):
            yield f"the card is unfinished: it says {match[0]!r}"


def _cell_problems(body: str) -> Iterator[str]:
    for line in FENCE.sub("", body).splitlines():
        if line.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")):
                if cell.strip() in RULES["body"]["empty_cells"]:
                    yield f"a table has the cell {cell.strip()!r}: {line.strip()}"


def _link_problems(body: str, folder: Path) -> Iterator[str]:
    folder = Path(os.path.abspath(folder))  # not resolved: the Hub's cache is made of links
    for target in relative_links(body):
        path = Path(os.path.abspath(folder / target))
        if not path.is_relative_to(folder) or not path.exists():
            yield f"link to {target}, which is not in {folder}"
    anchors = {_anchor(heading[2]) for heading in HEADING.finditer(FENCE.sub("", body))}
    for target in _links(body):
        if target.startswith("#") and target[1:] not in anchors:
            yield f"link to {target}, which is no heading of the card"
        page = target.removeprefix(HUB).partition("#")[0]
        if target.startswith(HUB) and not re.fullmatch(RULES["body"]["hub_page"], page):
            yield f"link to {target}, which is no page of the Hub"


def relative_links(body: str) -> Iterator[str]:
    """Give the files that a card links or shows from its own repository."""
    for link in _links(body):
        target = link.split("#")[0]
        if target and not re.match(r"(https?|mailto):", target):
            yield target


def _links(body: str) -> Iterator[str]:
    for match in LINK.finditer(CODE.sub("", FENCE.sub("", body))):
        yield match[1] or match[2]


def _anchor(heading: str) -> str:
    """Give the name by which Markdown links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
