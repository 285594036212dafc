"""Draw the network as a column of layers with the shape that leaves each of them."""

from collections.abc import Iterator

from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

Layer = tuple[str, tuple[int, ...]]  # name, and its output's shape, channels first
Size = tuple[int, ...]  # height and width


def layer_rows(evidence: Evidence) -> list[Layer]:
    """Layers in the order of the data, each with its output's shape, channels first.

    Args:
        evidence: what the folder holds; the images are those of its image processor.

    Raises:
        KeyError: if config.json lacks a field of its family.
    """
    config, crop = evidence.config, evidence.preprocessor["crop_size"]
    size = (crop["height"], crop["width"])
    rows: list[Layer] = [("image", (config["num_channels"], *size))]
    rows += (_alexnet if evidence.model_type == "alexnet" else _stages)(config, size)
    rows.append(("linear", (len(evidence.labels),)))
    return rows


def diagram(evidence: Evidence) -> str:
    """Draw the layers as lines of text."""
    rows = [(name, " x ".join(map(str, shape))) for name, shape in layer_rows(evidence)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {shape}" for name, shape in rows)


def _stages(config: Record, size: Size) -> Iterator[Layer]:
    def half() -> Size:
        return tuple(-(-side // 2) for side in size)

    if config["stem"] == "small":
        yield "convolution 3x3", (config["embedding_size"], *size)
    else:
        size = half()
        yield "convolution 7x7, stride 2", (config["embedding_size"], *size)
        size = half()
        yield "max pooling 3x3, stride 2", (config["embedding_size"], *size)
    pairs = zip(config["depths"], config["hidden_sizes"], strict=True)
    for number, (blocks, channels) in enumerate(pairs):
        size = half() if number else size
        plural = "s" if blocks > 1 else ""
        yield f"stage {number + 1}, {blocks} block{plural}", (channels, *size)
    yield "mean over pixels", (channels,)


def _alexnet(config: Record, size: Size) -> Iterator[Layer]:
    def after(kernel: int, stride: int, *, padding: int) -> Size:
        return tuple((side + 2 * padding - kernel) // stride + 1 for side in size)

    for number, channels in enumerate(config["hidden_sizes"]):
        if number == 0 and config["stem"] == "imagenet":
            name, kernel, stride, padding = (
                "convolution 11x11, stride 4",
                11,
                4,
                config["stem_padding"],
            )
        elif number == 1:
            name, kernel, stride, padding = "convolution 5x5", 5, 1, 2
        else:
            name, kernel, stride, padding = "convolution 3x3", 3, 1, 1
        size = after(kernel, stride, padding=padding)
        yield name, (channels, *size)
        if number not in (2, 3):
            size = after(3, 2, padding=0)
            yield "max pooling 3x3, stride 2", (channels, *size)
    yield "mean over regions", (channels, config["pooled_size"], config["pooled_size"])
    for _ in range(2):
        yield "linear, ReLU", (config["classifier_hidden_size"],)
