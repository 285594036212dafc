"""Draw the network as a column of layers with the shape that leaves each of them."""

from hub_cards.card.model_facts import network_records
from hub_cards.evidence.folder import Evidence

Layer = tuple[str, tuple[int, ...]]  # name, and its output's shape, channels first


def layer_rows(evidence: Evidence) -> list[Layer]:
    """Give the layers in the order of the data; [] where no file says what was seen of them.

    Training, conversion and evaluation write them, for an image as the processor makes it.

    Raises:
        ValueError: if a file has them in another form.
    """
    shape = evidence.preprocessor["crop_size"]
    image = (evidence.preprocessor["num_channels"], shape["height"], shape["width"])
    for record in network_records(evidence):
        try:
            rows = [(str(row["name"]), tuple(row["shape"])) for row in record.get("layers") or ()]
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"layers in the files of {evidence.folder} must have names and shapes; {error!r}. "
                "Evaluate the model again."
            ) from error
        if rows and rows[0][1] == image:
            return rows
    return []


def diagram(evidence: Evidence) -> str:
    """Draw the layers as lines of text; "" where they are not known."""
    rows = [(name, " x ".join(map(str, shape))) for name, shape in layer_rows(evidence)]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {shape}" for name, shape in rows)
