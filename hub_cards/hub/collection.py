"""A collection on the Hub for a family of models, with notes made of their evidence.

The collection is compared with what it should hold, and only what differs is sent; a second run
sends nothing. Nothing is ever removed, and a note that a person has written is left alone.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import Collection, CollectionItem
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from hub_cards.card.evaluation_facts import largest_with, protocol_label
from hub_cards.card.formatting import dataset_name, percent
from hub_cards.card.model_facts import short_count
from hub_cards.evidence.folder import Evidence
from hub_cards.evidence.hub_model import read_hub_model
from hub_cards.hub.access import check_repo_id, log_in, open_hub
from hub_cards.hub.push_errors import PushError, failure, persist

logger = logging.getLogger(__name__)

OUR_NOTE = re.compile(r"(\d+\.\d\d % top-1 on .+, )?\d[\d.]*( [kM])? parameters")
SORTING_ROUNDS = 3
Key = tuple[Literal["model", "space"], str]  # type and id of an item
Items = dict[tuple[str, str], CollectionItem]  # by type and id in lower case


@dataclass(frozen=True)
class CollectionResult:
    """The collection's page, None if it was not made yet, and what differed, a line each."""

    url: str | None
    changes: tuple[str, ...]


def update_collection(
    title: str,
    model_ids: Sequence[str],
    *,
    space_id: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> CollectionResult:
    """Make a collection hold models, the most accurate first, and a Space after them.

    The token is the one that huggingface_hub finds. What happens is logged to
    "hub_cards.hub.collection".

    Args:
        title: namespace/title, or a title in the token's own namespace; created if there is none.
        model_ids: models on the Hub, as user/name.
        space_id: a Space on the Hub, as user/name.
        private: create it as a private one; one that exists must be private then.
        dry_run: only log what would happen; a token is not needed then, if there is a namespace.

    Raises:
        PushError: with the reasons of a push; "folder" is a model that has no usable evidence.
    """
    for repo_id in (*model_ids, *filter(None, [space_id])):
        check_repo_id(repo_id)
    if not title.rpartition("/")[2].strip():
        raise PushError("name", f"the title of a collection must have text; got {title!r}")
    update = _Update(title, model_ids, space_id=space_id, private=private, dry_run=dry_run)
    return persist(update.attempt, update.explain)


def collection_note(evidence: Evidence) -> str:
    """Say of a model its most telling accuracy, and its size."""
    size = f"{short_count(evidence.weights.num_parameters)} parameters"
    result = largest_with(evidence, "metrics")
    if not result:
        return size
    label = protocol_label(evidence, result)
    where = f"{dataset_name(result['dataset'])} [{result['dataset']['split']}]"
    where += f" ({label})" if label else ""
    return f"{percent(result['metrics']['top1_accuracy'])} top-1 on {where}, {size}"


def _rank(evidence: Evidence) -> tuple[object, ...]:
    """Sort by accuracy among results that can be compared, the largest test first."""
    result = largest_with(evidence, "metrics")
    if not result:
        return (1,)
    dataset = result["dataset"]
    which = (dataset_name(dataset), dataset["split"], protocol_label(evidence, result))
    return (0, -dataset["num_samples"], *which, -result["metrics"]["top1_accuracy"])


class _Update:
    """One update; see `update_collection`."""

    def __init__(
        self,
        title: str,
        model_ids: Sequence[str],
        *,
        space_id: str | None,
        private: bool,
        dry_run: bool,
    ) -> None:
        self.asked = title
        self.namespace, _, self.title = title.rpartition("/")
        self.model_ids, self.space_id = list(dict.fromkeys(model_ids)), space_id
        self.private, self.dry_run = private, dry_run
        self.api = open_hub(anonymous=dry_run and self.namespace != "")
        self.user = ""
        self.wanted: dict[Key, str] = {}  # with notes, in the order that the collection is to have
        self.changes: tuple[str, ...] | None = None  # of the first look

    def explain(self, error: Exception) -> PushError:
        endpoint = self.api.endpoint
        return failure(error, self.asked, revision="main", endpoint=endpoint, user=self.user)

    def attempt(self) -> CollectionResult:
        if self.api.token and not self.user:
            self._log_in()
        if not self.wanted:
            self.wanted = self._read_evidence()
        found = self._find()
        if self.private and found and not found.private:
            raise PushError(
                "taken",
                f"{found.url} exists and is public; --private cannot change that. Change its "
                "visibility on its page, or choose another title.",
            )
        items = self._items(found)
        if self.changes is None:
            self.changes = tuple(self._differences(found, items))
            self._show(found, items)
        if self.dry_run or not self.changes:
            return CollectionResult(found.url if found else None, self.changes)
        if found is None:
            # Where the answer to an attempt was lost, it exists.
            found = self.api.create_collection(
                self.title, namespace=self.namespace, private=self.private, exists_ok=True
            )
        self._send(found.slug, items)
        return CollectionResult(found.url, self.changes)

    def _send(self, slug: str, items: Items) -> None:
        for (kind, repo_id), note in self.wanted.items():
            item = items.get((kind, repo_id.lower()))
            if item is None:
                self.api.add_collection_item(slug, repo_id, kind, note=note or None, exists_ok=True)
            elif self._is_outdated(item, note):
                self.api.update_collection_item(slug, item.item_object_id, note=note)
        self._sort(slug)

    def _log_in(self) -> None:
        account = log_in(self.api)
        self.namespace = self.namespace or account.name
        if not account.owns(self.namespace):
            raise PushError(
                "permission",
                f"{account.name} may not make collections of {self.namespace}; the namespace must "
                f"be one of {', '.join(account.namespaces)}.",
            )
        self.user = account.name

    def _read_evidence(self) -> dict[Key, str]:
        models = []
        for repo_id in self.model_ids:
            try:
                evidence = read_hub_model(self.api, repo_id).evidence
            except GatedRepoError:
                raise
            except RepositoryNotFoundError as error:
                raise self._missing(repo_id, "model") from error
            except (FileNotFoundError, ValueError) as error:
                if isinstance(error, HfHubHTTPError):
                    raise
                raise PushError("folder", f"{repo_id} cannot be described; {error}") from error
            models.append((_rank(evidence), repo_id, collection_note(evidence)))
        wanted: dict[Key, str] = {("model", repo_id): note for _, repo_id, note in sorted(models)}
        if self.space_id:
            if not self.api.repo_exists(self.space_id, repo_type="space"):
                raise self._missing(self.space_id, "Space")
            wanted["space", self.space_id] = ""
        return wanted

    @staticmethod
    def _missing(repo_id: str, kind: str) -> PushError:
        return PushError(
            "name", f"{repo_id} must be a {kind} on the Hub that this token may see; push it first"
        )

    def _find(self) -> Collection | None:
        for one in self.api.list_collections(owner=self.namespace):
            owner = one.slug.partition("/")[0]
            if one.title == self.title and owner.lower() == self.namespace.lower():
                return self.api.get_collection(one.slug)  # a list shows four items only
        return None

    def _items(self, collection: Collection | None) -> Items:
        items = collection.items if collection else []
        wanted = {(str(kind), repo_id.lower()) for kind, repo_id in self.wanted}
        keyed = {(str(item.item_type), item.item_id.lower()): item for item in items}
        return {key: item for key, item in keyed.items() if key in wanted}

    @staticmethod
    def _is_outdated(item: CollectionItem, note: str) -> bool:
        ours = not item.note or OUR_NOTE.fullmatch(item.note)
        return bool(note) and item.note != note and bool(ours)

    def _differences(self, found: Collection | None, items: Items) -> Iterator[str]:
        if found is None:
            yield "new collection"
        for (kind, repo_id), note in self.wanted.items():
            item = items.get((kind, repo_id.lower()))
            if item is None:
                yield f"new   {kind} {repo_id}: {note}" if note else f"new   {kind} {repo_id}"
            elif self._is_outdated(item, note):
                yield f"note  {kind} {repo_id}: {note}"
        order = [(kind, repo_id.lower()) for kind, repo_id in self.wanted]
        later = [*items, *(key for key in order if key not in items)]  # new ones come last
        if later != order:
            yield f"order {', '.join(repo_id for _, repo_id in self.wanted)}"

    def _show(self, found: Collection | None, items: Items) -> None:
        visible = "private" if (found.private if found else self.private) else "public"
        state = "exists" if found else "new"
        logger.info(f"{self.namespace}/{self.title}: {visible} collection, {state}")
        for line in self.changes or ():
            logger.info(f"  {line}")
        for (kind, repo_id), note in self.wanted.items():
            item = items.get((kind, repo_id.lower()))
            if note and item and item.note != note and not self._is_outdated(item, note):
                logger.info(f"  kept  {kind} {repo_id}: its note was written by hand")

    def _sort(self, slug: str) -> None:
        """Give our items the positions that they have together; others keep theirs."""
        order = [(kind, repo_id.lower()) for kind, repo_id in self.wanted]
        for _ in range(SORTING_ROUNDS):
            items = self._items(self.api.get_collection(slug))
            if list(items) == order:
                return
            positions = sorted(item.position for item in items.values())
            for key, position in zip(order, positions, strict=True):
                item_id = items[key].item_object_id
                self.api.update_collection_item(slug, item_id, position=position)
        logger.info("  the Hub keeps another order of the items")
