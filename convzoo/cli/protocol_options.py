"""Options of `convzoo evaluate` that say how images are shown to a model."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

PANEL = "Protocol"


class Numbers(tuple[float, ...]):
    """Numbers with commas between them."""


def numbers(kind: Callable[[str], float], what: str) -> Callable[[Any], Numbers]:
    """A parser of numbers above 0, each once, with commas between them."""

    def parse(value: Any) -> Numbers:
        try:
            given = Numbers(map(kind, str(value).split(",")))
        except ValueError:
            given = Numbers()
        several = len(set(given)) < len(given)
        if not given or several or not all(0 < each < math.inf for each in given):
            raise typer.BadParameter(
                f"must be {what} above 0, each once, with commas between them; got {value!r}"
            )
        return given

    return parse


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, **settings)


Size = Annotated[
    Numbers | None,
    _option(
        help="Side of the square that the model sees, in pixels, instead of its own; several, as "
        "160,192,224, are evaluated one after another.",
        parser=numbers(int, "whole numbers"),
        metavar="N[,N...]",
        show_default=False,
    ),
]
CropRatio = Annotated[
    float | None,
    _option(
        help="That side / shorter side of the resized image, in (0, 1]; the model's own by "
        "default.",
        metavar="RATIO",
        show_default=False,
    ),
]
Interpolation = Annotated[
    Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] | None,
    _option(help="Filter of the resizing; the model's own by default.", show_default=False),
]
Crops = Annotated[Literal["1", "10"], _option(help="Crops of an image, averaged.")]
CropsOf = Annotated[
    Literal["square", "image"],
    _option(help="Ten crops are those of the central square, or of the whole resized image."),
]
Flip = Annotated[bool, _option("--flip", help="Show the mirror image, too, and average.")]
Scales = Annotated[
    Numbers | None,
    _option(
        help="Show crops of the image resized by these factors, too, and average: 1,1.15.",
        parser=numbers(float, "numbers"),
        metavar="X[,X...]",
        show_default=False,
    ),
]
Averaged = Annotated[
    Literal["probabilities", "logits"], _option(help="What is averaged over several views.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"], _option(help="Of weights and activations.")
]
ChannelsLast = Annotated[
    bool, _option("--channels-last", help="Memory format of weights and images.")
]
Compile = Annotated[bool, _option("--compile", help="Compile the model by torch.compile.")]
Fast = Annotated[
    bool,
    _option(
        "--fast", help="Fold batch norms; logits differ by rounding (1e-5), which is recorded."
    ),
]
FastDecoding = Annotated[
    bool,
    _option(
        "--fast-decoding",
        help="Decode and resize as training does, in half the time; pixels differ by a level of "
        "255, which is checked and recorded.",
    ),
]
