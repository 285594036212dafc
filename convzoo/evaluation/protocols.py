"""How images are shown to a model: crop, views, precision; and what results record of it."""

from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from transformers import BaseImageProcessor

from convzoo.evaluation.crop_settings import CropSettings
from convzoo.evaluation.results import CropFacts, ProtocolFacts
from convzoo.inference import prepare

Dtype = Literal["float32", "bfloat16", "float16"]
Averaged = Literal["probabilities", "logits"]
CropsOf = Literal["square", "image"]


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How a model computes.

    Attributes:
        fused: prepared by `convzoo.inference.prepare`.
        dtype: of weights, images and activations; scores are float32 again.
        channels_last: memory format of weights and images.
        compiled: by `torch.compile`.
    """

    fused: bool = False
    dtype: Dtype = "float32"
    channels_last: bool = False
    compiled: bool = False

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the model, ready to compute so; its weights are changed in place."""
        model = model.eval()
        if self.fused:
            prepare(model)
        model = model.to(getattr(torch, self.dtype))
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cast(torch.nn.Module, torch.compile(model)) if self.compiled else model


OWN_CROP = CropSettings()
USUAL = Computation()


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How images are shown to a model, and by how many at a time.

    Attributes:
        crop: what is changed of the processor's crop.
        crops: 1, the processor's crop, or 10: torchvision's ten crops of that size.
        crops_of: ten crops are the corners and the centre of the central "square" of the
            processor's `size`, or of the whole resized "image".
        flip: show the mirror image, too; ten crops have theirs.
        scales: factors of the processor's `size`; each gives its views of the same crop.
        averaged: what is averaged over the views of an image.
        computation: how the model computes.
        exif_rotation: turn images as their EXIF data says.
        fast_decoding: see `convzoo.evaluation.fast_decoding`.
        unreadable: "stop" at the first image that cannot be read, or count it as "wrong".
        batch_size: images per step and process.
        num_workers: decoding processes per process.

    Source of ten crops: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012, section 4.1; they average the probabilities, not the logits.
    """

    crop: CropSettings = OWN_CROP
    crops: int = 1
    crops_of: CropsOf = "square"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    averaged: Averaged = "probabilities"
    computation: Computation = USUAL
    exif_rotation: bool = False
    fast_decoding: bool = False
    unreadable: Literal["stop", "wrong"] = "stop"
    batch_size: int = 64
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.crops not in (1, 10):
            raise ValueError(f"crops must be 1 or 10; got {self.crops}")
        if self.crops == 1 and self.crops_of == "image":
            raise ValueError("crops of the whole image must be 10; got 1")
        if self.crops == 10 and self.flip:
            raise ValueError("ten crops have their mirror images already: leave out the flip")
        several = len(set(self.scales)) < len(self.scales)
        if not self.scales or several or not all(0.1 <= each <= 10 for each in self.scales):
            raise ValueError(f"scales must differ and lie in [0.1, 10]; got {self.scales}")
        if self.averaged == "logits" and self.num_views == 1:
            raise ValueError("logits are averaged over several views; got one: crops, flip, scales")

    @property
    def num_views(self) -> int:
        """How often an image is shown."""
        return self.crops * (1 + self.flip) * len(self.scales)


def protocol_facts(protocol: EvaluationProtocol, processor: BaseImageProcessor) -> ProtocolFacts:
    """What results record: whatever may change a number, and is not as usual.

    Args:
        protocol: how the images are shown.
        processor: that they are shown with, after the protocol's crop was applied to it.
    """
    computation = protocol.computation
    facts: ProtocolFacts = {"views": protocol.num_views, "image_processor": processor.to_dict()}
    if protocol.num_views > 1:
        facts["averaged"] = protocol.averaged
    if protocol.crop != OWN_CROP:
        crop = {key: value for key, value in asdict(protocol.crop).items() if value is not None}
        facts["crop"] = cast(CropFacts, crop)
    if protocol.crops_of == "image":
        facts["crops_of"] = "image"
    if protocol.flip:
        facts["flip"] = True
    if protocol.scales != (1.0,):
        facts["scales"] = list(protocol.scales)
    if computation.fused:
        facts["fused"] = True
    if computation.dtype != "float32":
        facts["dtype"] = computation.dtype
    if computation.channels_last:
        facts["channels_last"] = True
    if computation.compiled:
        facts["compiled"] = True
    if protocol.exif_rotation:
        facts["exif_rotation"] = True
    if protocol.fast_decoding:
        facts["fast_decoding"] = True
    return facts


def recorded_protocol(
    facts: ProtocolFacts,
    *,
    unreadable: Literal["stop", "wrong"],
    batch_size: int,
    num_workers: int,
) -> EvaluationProtocol:
    """The protocol that results record, to be used again.

    Args:
        facts: see `protocol_facts`.
        unreadable: as the other two no part of what is recorded.
        batch_size: see there.
        num_workers: see there.

    Raises:
        ValueError: if there is no such protocol.
    """
    scales, flip = tuple(facts.get("scales", [1.0])), facts.get("flip", False)
    crops = 10 if facts["views"] == 10 * len(scales) and not flip else 1
    protocol = EvaluationProtocol(
        crop=CropSettings(**facts.get("crop", {})),
        crops=crops,
        crops_of=facts.get("crops_of", "square"),
        flip=flip,
        scales=scales,
        averaged=cast(Averaged, facts.get("averaged", "probabilities")),
        computation=Computation(
            fused=facts.get("fused", False),
            dtype=facts.get("dtype", "float32"),
            channels_last=facts.get("channels_last", False),
            compiled=facts.get("compiled", False),
        ),
        exif_rotation=facts.get("exif_rotation", False),
        fast_decoding=facts.get("fast_decoding", False),
        unreadable=unreadable,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    if protocol.num_views != facts["views"]:
        raise ValueError(
            f"views must be 1 or 10, times flips and scales, to be repeated; got {facts['views']}"
        )
    return protocol
