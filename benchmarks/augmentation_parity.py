"""Augmentation policies against timm and torchvision: pixels, distributions, speed, as a table.

    python benchmarks/augmentation_parity.py

Needs timm, torchvision and scipy, which the project itself does not. torchvision's CUDA build
imports on a machine without CUDA once its two compiled operators have a declaration, below.
"""

import contextlib
import io
import math
import random
import time
from pathlib import Path
from unittest import mock

import numpy as np
import scipy
import torch
from PIL import Image
from scipy import stats

from convzoo.environment import describe_environment, now
from convzoo.files import write_json
from convzoo.images import policies as ours
from convzoo.images.color import shift_hue
from convzoo.images.erasing import erasing_boxes
from convzoo.images.mixing import MixupCutmix
from convzoo.images.operations import (
    RAND_AUGMENT,
    RAND_AUGMENT_INCREASING,
    TRIVIAL_AUGMENT_WIDE,
    apply_operation,
)
from convzoo.images.ten_crop import ten_crop

_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
from timm.data import auto_augment, mixup, random_erasing  # noqa: E402
from torchvision.transforms import autoaugment  # noqa: E402
from torchvision.transforms import functional as tv  # noqa: E402

DRAWS = 20_000
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def main() -> None:
    """Print the table and write it to the result file."""
    with contextlib.redirect_stdout(io.StringIO()) as table:
        compare()
    print(table.getvalue())
    peers = {module.__name__: module.__version__ for module in (timm, torchvision, scipy)}
    write_json(
        Path(__file__).parent / "results" / "augmentation_parity_202611.json",
        {
            "what": "our augmentation against timm's and torchvision's",
            "command": "python benchmarks/augmentation_parity.py",
            "date": now(),
            "environment": describe_environment() | {"peers": peers},
            "table": table.getvalue().splitlines(),
        },
    )


def compare() -> None:
    """Print every comparison."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    folder = Path(__file__).parent.parent / "data/photos"
    names = ("bison", "kitten", "petra")
    images = [np.array(Image.open(folder / f"{n}.jpg").convert("RGB"))[:224, :224] for n in names]
    images.append(images[0][:201, :151].copy())
    print("largest difference of a pixel, grey levels")
    compare_rand_augment(images)
    compare_trivial_augment(images)
    compare_others(images)
    print(f"\np-values of equal distributions, {DRAWS} draws each")
    compare_rand_augment_draws()
    compare_trivial_augment_draws(images[0])
    compare_erasing_draws()
    compare_mixing_draws()
    compare_augmix_results(images[0])
    print("\npictures of 224 x 224 per second of CPU time")
    compare_speed(images[0])


def difference(first, second) -> float:
    """Largest absolute difference of two images or batches."""
    return np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).max()


def compare_rand_augment(images) -> None:
    """Both lists of operations, at nine levels, both signs, two filters."""
    for table, suffix in ((RAND_AUGMENT, ""), (RAND_AUGMENT_INCREASING, "Increasing")):
        for name, argument in table.items():
            their_name = name + suffix if name + suffix in auto_augment.NAME_TO_OP else name
            level_to_argument = auto_augment.LEVEL_TO_ARG[their_name]
            worst = 0.0
            for level in (0, 0.7, 2.5, 4, 6.5, 7.1, 8.8, 9.3, 10):
                for sign, filter_name in ((s, f) for s in (1, -1) for f in FILTERS):
                    value = argument(level / 10, sign)
                    negate = lambda v, sign=sign: sign * v  # noqa: E731
                    with mock.patch.object(auto_augment, "_randomly_negate", negate):
                        theirs = level_to_argument(level, {}) if level_to_argument else ()
                    options = {"fillcolor": ours.IMAGENET_FILL, "resample": FILTERS[filter_name]}
                    for image in images:
                        expected = auto_augment.NAME_TO_OP[their_name](
                            Image.fromarray(image), *theirs, **dict(options)
                        )
                        got = apply_operation(
                            image,
                            name,
                            argument=value,
                            interpolation=filter_name,
                            fill=ours.IMAGENET_FILL,
                        )
                        worst = max(worst, difference(got, expected))
            print(f"  timm {their_name:22} {worst:4.0f}")


def compare_trivial_augment(images) -> None:
    """Every operation at every magnitude and sign."""
    space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    assert sorted(space) == sorted(TRIVIAL_AUGMENT_WIDE)
    for name, (magnitudes, signed) in space.items():
        theirs = [s * m for m in magnitudes.ravel().tolist() for s in ((1, -1) if signed else (1,))]
        arguments = TRIVIAL_AUGMENT_WIDE[name]
        assert len(arguments) == len(theirs)
        worst = 0.0
        for magnitude, argument in zip(theirs, arguments, strict=True):
            if name.startswith("Translate"):
                magnitude = -magnitude  # they move the image, Pillow's matrix the window
            for image in images:
                pil_image = Image.fromarray(image)
                expected = autoaugment._apply_op(
                    pil_image, name, magnitude, tv.InterpolationMode.NEAREST, None
                )
                got = apply_operation(
                    image, name, argument=argument, interpolation="nearest", fill=(0, 0, 0)
                )
                worst = max(worst, difference(got, expected))
        print(f"  torchvision {name:15} {worst:4.0f}")


def compare_others(images) -> None:
    """Hue, ten crops, and mixing with the same shares and boxes."""
    worst = 0.0
    for image in images:
        for turns in (-0.5, -0.31, -0.1, 0.0, 0.07, 0.2, 0.5):
            pil_image = Image.fromarray(image)
            expected = tv.adjust_hue(pil_image, turns)
            worst = max(worst, difference(shift_hue(pil_image, turns), expected))
    print(f"  torchvision adjust_hue      {worst:4.0f}")
    pixels = torch.randn(2, 3, 61, 58)
    expected = torch.stack(tv.ten_crop(pixels, 32), dim=1)
    print(f"  torchvision ten_crop        {difference(ten_crop(pixels, 32), expected):4.0f}")
    labels = torch.randint(10, (8,))
    for mode in ("batch", "elem", "pair"):
        worst = 0.0
        for seed in range(50):
            pixels = torch.randn(8, 3, 33, 40)
            mixing = MixupCutmix(
                mixup_alpha=0.2,
                cutmix_alpha=1.0,
                probability=0.8,
                switch_probability=0.5,
                label_smoothing=0.1,
                num_labels=10,
                mode=mode,
            )
            draws = {"batch": 1, "elem": 8, "pair": 4}[mode]
            shares, boxes = mixing.draw(draws, (33, 40), np.random.default_rng(seed))
            use_cutmix = boxes[:, 1] > boxes[:, 0]
            peer = mixup.Mixup(0.2, 1.0, mode=mode, label_smoothing=0.1, num_classes=10)
            params = (shares.copy(), use_cutmix)
            peer._params_per_elem = lambda count, params=params: params
            peer._params_per_batch = lambda params=params: (params[0][0], params[1][0])
            queue = iter([(b, s) for b, s, c in zip(boxes, shares, use_cutmix, strict=True) if c])
            given = lambda *_, queue=queue, **__: next(queue)  # noqa: E731
            with mock.patch.object(mixup, "cutmix_bbox_and_lam", given):
                expected = peer(pixels.clone(), labels)
            got = mixing(pixels, labels, np.random.default_rng(seed))
            worst = max(worst, *(difference(g, e) for g, e in zip(got, expected, strict=True)))
        print(f"  timm Mixup {mode:8}     {worst:.1e} (normalised pixels, labels)")


def compare_rand_augment_draws() -> None:
    """Counts of the operations applied, and the arguments of each."""
    for policy in ("rand-m9-mstd0.5", "rand-m7-mstd0.5-inc1"):
        theirs = []
        transform = auto_augment.rand_augment_transform(policy, {"img_mean": ours.IMAGENET_FILL})
        for operation in transform.ops:
            operation.aug_fn = lambda image, *value, name=operation.name, log=theirs, **_: (
                log.append((name.removesuffix("Increasing"), value[0] if value else 0.0))
            )
        rng = np.random.default_rng(0)
        parsed = ours.parse_policy(policy)
        drawn = []
        for _ in range(DRAWS):
            transform(None)
            drawn += [(name, value or 0.0) for name, value in parsed.draw(rng)]
        report(policy, drawn, theirs)
        print(f"    applied per image: {len(drawn) / DRAWS:.4f}, timm {len(theirs) / DRAWS:.4f}")


def compare_trivial_augment_draws(image) -> None:
    """Counts of the operations, and the arguments of each."""
    theirs = []

    def record(pil_image, name, magnitude, **_):
        factor = name in ("Brightness", "Color", "Contrast", "Sharpness")
        theirs.append((name, magnitude + factor))

    transform, pil_image = autoaugment.TrivialAugmentWide(), Image.fromarray(image)
    rng = np.random.default_rng(0)
    policy = ours.TrivialAugmentWide()
    with mock.patch.object(autoaugment, "_apply_op", record):
        for _ in range(DRAWS):
            transform(pil_image)
    drawn = [(name, value or 0.0) for name, value in (policy.draw(rng) for _ in range(DRAWS))]
    theirs = [(n, math.trunc(v) if n.startswith("Translate") else v) for n, v in theirs]
    report("TrivialAugmentWide", drawn, theirs)


def report(title, drawn, theirs) -> None:
    """Chi-square of the operations, Kolmogorov-Smirnov of each operation's arguments."""
    names = sorted({name for name, _ in theirs})
    counts = [[sum(n == name for n, _ in sample) for name in names] for sample in (drawn, theirs)]
    print(f"  {title}: operations, chi-square {stats.chi2_contingency(counts).pvalue:.3f}")
    for name in names:
        first, second = ([v for n, v in sample if n == name] for sample in (drawn, theirs))
        if len(set(second)) > 1:
            pvalue = stats.ks_2samp(first, second).pvalue
            print(f"    argument of {name:14} KS {pvalue:.3f}")


def compare_erasing_draws() -> None:
    """Boxes of both libraries' random erasing."""
    rng = np.random.default_rng(0)
    drawn = [
        box
        for _ in range(DRAWS)
        for box in erasing_boxes(
            (224, 160), rng, probability=1.0, area=(0.02, 0.33), ratio=(0.3, 3.3), max_count=1
        )
    ]
    image = torch.zeros(1, 224, 160)
    get = torchvision.transforms.RandomErasing.get_params
    theirs = [get(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(DRAWS)]
    for i, side in enumerate(("top", "left", "height", "width")):
        pvalue = stats.ks_2samp([b[i] for b in drawn], [b[i] for b in theirs]).pvalue
        print(f"  torchvision RandomErasing {side:7} KS {pvalue:.3f}")
    theirs, counts = [], [[], []]
    with mock.patch.object(random_erasing, "_get_pixels", lambda *a, **_: theirs.append(a[2]) or 0):
        peer = random_erasing.RandomErasing(0.4, mode="pixel", max_count=3, device="cpu")
        for _ in range(DRAWS):
            before = len(theirs)
            peer(image)
            counts[1].append(len(theirs) - before)
    drawn = [
        erasing_boxes(
            (224, 160), rng, probability=0.4, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), max_count=3
        )
        for _ in range(DRAWS)
    ]
    counts[0] = [len(boxes) for boxes in drawn]
    table = [np.bincount(c, minlength=4) for c in counts]
    print(f"  timm RandomErasing boxes, chi-square {stats.chi2_contingency(table).pvalue:.3f}")
    flat = [box for boxes in drawn for box in boxes]
    for i, side in ((1, "height"), (2, "width")):
        pvalue = stats.ks_2samp([b[i + 1] for b in flat], [b[i] for b in theirs]).pvalue
        print(f"  timm RandomErasing {side:14} KS {pvalue:.3f}")


def compare_mixing_draws() -> None:
    """Shares of MixUp and CutMix, the latter after the correction by the real area."""
    for title, alphas in (("MixUp", (0.2, 0.0)), ("CutMix", (0.0, 1.0)), ("both", (0.2, 1.0))):
        mixing = MixupCutmix(
            mixup_alpha=alphas[0],
            cutmix_alpha=alphas[1],
            probability=0.9,
            switch_probability=0.5,
            label_smoothing=0.0,
            num_labels=10,
            mode="elem",
        )
        shares, _ = mixing.draw(DRAWS, (224, 160), np.random.default_rng(0))
        peer = mixup.Mixup(*alphas, prob=0.9, switch_prob=0.5, mode="elem", num_classes=10)
        lam, use_cutmix = peer._params_per_elem(DRAWS)
        theirs = [
            mixup.cutmix_bbox_and_lam((3, 224, 160), value)[1] if cut and value != 1 else value
            for value, cut in zip(lam, use_cutmix, strict=True)
        ]
        pvalue = stats.ks_2samp(shares.astype(np.float32), np.float32(theirs)).pvalue
        print(f"  timm Mixup, {title:6} share KS {pvalue:.3f}")


def compare_augmix_results(image) -> None:
    """Mean change of an image by AugMix, 500 draws each."""
    pil_image, rng = Image.fromarray(image), np.random.default_rng(0)
    peer = auto_augment.augment_and_mix_transform("augmix-m3", {"img_mean": ours.IMAGENET_FILL})
    parsed = ours.parse_policy("augmix-m3")
    drawn = [np.abs(parsed(image, rng) - image.astype(float)).mean() for _ in range(500)]
    theirs = [np.abs(np.asarray(peer(pil_image)) - image.astype(float)).mean() for _ in range(500)]
    print(f"  timm AugMix, change of pixels KS {stats.ks_2samp(drawn, theirs).pvalue:.3f}")


def compare_speed(image) -> None:
    """The policies of the two libraries, on the same image, interleaved."""
    pil_image = Image.fromarray(image)
    hparams = {"img_mean": ours.IMAGENET_FILL}
    peers = {
        "rand-m9-mstd0.5": auto_augment.rand_augment_transform("rand-m9-mstd0.5", dict(hparams)),
        "ta_wide": autoaugment.TrivialAugmentWide(),
        "augmix-m3": auto_augment.augment_and_mix_transform("augmix-m3", dict(hparams)),
    }
    rng = np.random.default_rng(0)
    for policy, peer in peers.items():
        parsed = ours.parse_policy(policy)
        seconds = [0.0, 0.0]
        rounds = 20 if policy.startswith("augmix") else 100
        for _ in range(rounds):
            start = time.process_time()
            for _ in range(10):
                parsed(image, rng)
            middle = time.process_time()
            for _ in range(10):
                np.array(peer(pil_image))
            seconds[0] += middle - start
            seconds[1] += time.process_time() - middle
        print(
            f"  {policy:20} {10 * rounds / seconds[0]:6.0f}, peer {10 * rounds / seconds[1]:6.0f}"
        )


if __name__ == "__main__":
    main()
