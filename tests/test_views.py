"""The views of an image against crops that Pillow cuts, and averages in float64."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.views import Views
from modeling import ConvZooImageProcessor
from tests.support.images import coloured_images

RAW = {"rescale_factor": 1.0, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}


def pillow_views(image, *, side, crop, whole=True, ten=True):
    """Crops of an image whose shorter side is resized to `side`, as arrays."""
    width, height = (int(each * side / min(image.size)) for each in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if not whole:
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    right, bottom = image.width - crop, image.height - crop
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    middle = (round(right / 2), round(bottom / 2))
    views = []
    for shown in (image, ImageOps.mirror(image)) if ten else (image,):
        for x, y in [*corners, middle] if ten else [middle]:
            views.append(np.asarray(shown.crop((x, y, x + crop, y + crop))).transpose(2, 0, 1))
    return views


def images():
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in coloured_images(4, seed=3)[0]]


def shown(protocol, **processor):
    views = Views(ConvZooImageProcessor(size=18, crop_size=15, **RAW, **processor), protocol)
    return torch.stack(list(views.cut(views.show(images()))), 1).numpy()


@pytest.mark.parametrize("of", ["square", "image"])
def test_ten_crops_are_of_the_square_or_of_the_whole_image(of):
    views = shown(EvaluationProtocol(crops=10, crops_of=of))
    expected = [pillow_views(each, side=18, crop=15, whole=of == "image") for each in images()]
    assert np.array_equal(views, np.array(expected))


def test_each_scale_gives_its_views_of_the_same_crop():
    views = shown(EvaluationProtocol(scales=(1.0, 1.5)))
    expected = [
        [pillow_views(each, side=side, crop=15, ten=False)[0] for side in (18, 27)]
        for each in images()
    ]
    assert np.array_equal(views, np.array(expected))
    ten = shown(EvaluationProtocol(scales=(1.5, 1.0), crops=10))
    expected = [pillow_views(each, side=27, crop=15, whole=False) for each in images()]
    assert ten.shape[1] == 20 and np.array_equal(ten[:, :10], np.array(expected))


def test_a_flip_follows_each_view():
    views = shown(EvaluationProtocol(scales=(1.0, 1.5), flip=True))
    plain = shown(EvaluationProtocol(scales=(1.0, 1.5)))
    assert np.array_equal(views[:, ::2], plain)
    assert np.array_equal(views[:, 1::2], plain[..., ::-1])


@pytest.mark.parametrize("averaged", ["probabilities", "logits"])
def test_scores_are_those_of_the_average(averaged):
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 5
    views = Views(ConvZooImageProcessor(), EvaluationProtocol(crops=10, averaged=averaged))
    scores = views.average(list(logits)).double().softmax(-1)
    double = logits.double()
    mean = double.softmax(-1).mean(0) if averaged == "probabilities" else double.mean(0).softmax(-1)
    assert torch.allclose(scores, mean, rtol=1e-5, atol=1e-7)


def test_a_scale_below_the_crop_is_refused():
    with pytest.raises(ValueError, match="as long as the crop, 15 pixels; 0.5 makes it 9"):
        shown(EvaluationProtocol(scales=(1.0, 0.5)))
