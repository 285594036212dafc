"""Options of `convzoo evaluate` that say how images are shown to a model."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from convzoo.cli.options import ReadingOptions

if TYPE_CHECKING:
    from convzoo.evaluation.protocols import EvaluationProtocol

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


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """How images are shown to a model, and how it computes."""

    size: Annotated[
        Numbers | None,
        _option(
            help="Side of the square that the model sees, in pixels, instead of its own; several, "
            "as 160,192,224, are evaluated one after another.",
            parser=numbers(int, "whole numbers"),
            metavar="N[,N...]",
            show_default=False,
        ),
    ] = None
    crop_ratio: Annotated[
        float | None,
        _option(
            help="That side / shorter side of the resized image, in (0, 1]; the model's own by "
            "default.",
            metavar="RATIO",
            show_default=False,
        ),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] | None,
        _option(help="Filter of the resizing; the model's own by default.", show_default=False),
    ] = None
    crops: Annotated[Literal["1", "10"], _option(help="Crops of an image, averaged.")] = "1"
    crops_of: Annotated[
        Literal["square", "image"],
        _option(help="Ten crops are those of the central square, or of the whole resized image."),
    ] = "square"
    flip: Annotated[bool, _option("--flip", help="Show the mirror image, too, and average.")] = (
        False
    )
    scales: Annotated[
        Numbers | None,
        _option(
            help="Show crops of the image resized by these factors, too, and average: 1,1.15.",
            parser=numbers(float, "numbers"),
            metavar="X[,X...]",
            show_default=False,
        ),
    ] = None
    averaged: Annotated[
        Literal["probabilities", "logits"], _option(help="What is averaged over several views.")
    ] = "probabilities"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], _option(help="Of weights and activations.")
    ] = "float32"
    channels_last: Annotated[
        bool, _option("--channels-last", help="Memory format of weights and images.")
    ] = False
    compile: Annotated[bool, _option("--compile", help="Compile the model by torch.compile.")] = (
        False
    )
    fast: Annotated[
        bool,
        _option(
            "--fast", help="Fold batch norms; logits differ by rounding (1e-5), which is recorded."
        ),
    ] = False
    fast_decoding: Annotated[
        bool,
        _option(
            "--fast-decoding",
            help="Decode and resize as training does, in half the time; pixels differ by a level "
            "of 255, which is checked and recorded.",
        ),
    ] = False

    def protocols(self, reading: ReadingOptions) -> list["EvaluationProtocol"]:
        """Return a protocol for each of the sizes."""
        from convzoo.evaluation.crop_settings import CropSettings
        from convzoo.evaluation.protocols import Computation, EvaluationProtocol

        return [
            EvaluationProtocol(
                crop=CropSettings(
                    size=side, ratio=self.crop_ratio, interpolation=self.interpolation
                ),
                crops=int(self.crops),
                crops_of=self.crops_of,
                flip=self.flip,
                scales=tuple(self.scales or (1.0,)),
                averaged=self.averaged,
                computation=Computation(
                    fused=self.fast,
                    dtype=self.dtype,
                    channels_last=self.channels_last,
                    compiled=self.compile,
                ),
                fast_decoding=self.fast_decoding,
                **asdict(reading),
            )
            for side in (map(int, self.size) if self.size else [None])
        ]
