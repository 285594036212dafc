"""Fast decoding in evaluations: pixels of the image processor, records, and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation.fast_decoding import (
    FastImageProcessor,
    check_fast_decoding,
    fast_processor,
)
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.remeasuring import Request, reevaluate
from convzoo.evaluation.views import Views
from convzoo.images.decoding import decode_rgb, open_rgb
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT
from tests.support.evaluations import evaluate
from tests.support.images import COLOURS, encode, jpeg, smooth_image

FAST = EvaluationProtocol(fast_decoding=True)


@pytest.fixture(scope="module")
def encoded():
    """Photographs, JPEGs of several kinds, and files that go through Pillow."""
    images = [path.read_bytes() for path in sorted((ROOT / "data/photos").rglob("*.jpg"))[::20]]
    images += [jpeg(smooth_image(40, 61), "grey"), jpeg(smooth_image(300, 33), "4:2:2")]
    images += [jpeg(smooth_image(61, 40), progressive=True), encode(smooth_image(20, 20), "PNG")]
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    images.append(encode(noise, "PNG"))
    palette = io.BytesIO()
    Image.new("RGBA", (50, 41), (9, 200, 30, 0)).quantize().save(palette, "PNG")
    return [*images, palette.getvalue()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"do_normalize": False}, {"do_rescale": False}])
@pytest.mark.parametrize(
    "options",
    [{}, {"scales": (1.0, 1.3), "flip": True}, {"crops": 10, "crops_of": "image"}, {"crops": 10}],
)
def test_pixels_are_those_of_the_processor_to_a_level(channels, settings, options, *, encoded):
    usual = {"num_channels": channels, "image_mean": [0.4] * channels}
    usual["image_std"] = [0.2] * channels
    protocol = EvaluationProtocol(**options)
    for size, crop, resample in ((41, 32, 2), (36, 36, 3)):
        processor = ConvZooImageProcessor(size, resample, crop_size=crop, **usual, **settings)
        exact = Views(processor, protocol).show([open_rgb(data, channels) for data in encoded])
        fast = Views(fast_processor(processor), protocol)
        for one, other in zip(
            exact, fast.show([decode_rgb(data, channels) for data in encoded]), strict=True
        ):
            assert one.shape == other.shape and other.dtype == torch.float32
            scale = 1 if "do_rescale" in settings else 1 / 255
            levels = (one - other).abs() / (scale if "do_normalize" in settings else scale / 0.2)
            assert levels.max() < 2.01 and (levels > 1.01).float().mean() < 1e-4
            assert (levels < 0.01).float().mean() > 0.98


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    names = dict(enumerate(COLOURS))
    model = CNN(
        CNNConfig(stem="small", embedding_size=8, hidden_sizes=[8], depths=[1], id2label=names)
    )
    model.save_pretrained(tmp_path / "model")
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_result_records_it_and_is_verified(folder, colour_data, capsys):
    command = ["evaluate", str(folder), "--data", str(colour_data), "--batch-size", "4"]
    assert main([*command, "--num-workers", "0"]) == 0
    assert main([*command, "--num-workers", "2", "--fast-decoding"]) == 0
    assert ", fast decoding: top-1 " in capsys.readouterr().out
    exact, fast = json.loads((folder / "eval_results.json").read_text())["results"]
    assert fast["protocol"] == exact["protocol"] | {"fast_decoding": True}
    assert fast["dataset"] == exact["dataset"]
    losses = [each["metrics"]["loss"] for each in (exact, fast)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=1e-3)
    request = Request(folder=str(folder), results=[fast], data=[str(colour_data)], num_workers=0)
    (answer,) = reevaluate(request)["results"]
    assert answer["loss"] == pytest.approx(losses[1], rel=1e-6) and answer["preprocessing"] == {}


def test_an_image_that_cannot_be_read_counts_as_ever(folder, tmp_path):
    for number, name in enumerate(COLOURS):
        (tmp_path / "data/test" / name).mkdir(parents=True)
        (tmp_path / "data/test" / name / "a.jpg").write_bytes(jpeg(smooth_image(30, 30, number)))
    (tmp_path / "data/test/red/broken.jpg").write_bytes(jpeg(smooth_image(30, 30))[:300])
    (tmp_path / "data/test/red/long.png").write_bytes(encode(smooth_image(2, 250), "PNG"))
    with pytest.raises(ValueError, match=r"(broken.jpg|long.png).*--unreadable wrong"):
        evaluate(folder, tmp_path / "data", fast_decoding=True)
    results = [
        evaluate(folder, tmp_path / "data", fast_decoding=fast, unreadable="wrong")
        for fast in (False, True)
    ]
    exact, fast = ([each["image"] for each in r["unreadable"]["images"]] for r in results)
    assert exact == fast == ["test/red/broken.jpg", "test/red/long.png"]


def test_processors_of_other_steps_are_refused(colour_data):
    def refused(processor):
        with pytest.raises(ValueError, match="Leave out --fast-decoding") as caught:
            check_fast_decoding(open_split(str(colour_data), "test"), processor, FAST)
        return str(caught.value)

    assert "needs a ConvZooImageProcessor" in refused(ConvNextImageProcessor())
    assert "filter bilinear or bicubic; got box" in refused(ConvZooImageProcessor(resample=4))
    assert "got no resizing" in refused(ConvZooImageProcessor(do_resize=False))

    class Moved(ConvZooImageProcessor):
        """Crops a pixel beside the centre."""

        def _resize_and_crop(self, image):
            return super()._resize_and_crop(image.transform(image.size, 0, (1, 0, 1, 0, 1, 0)))

    Moved.__name__ = "ConvZooImageProcessor"
    said = refused(Moved(18, crop_size=16))
    assert "those of the image processor to a level of 255" in said and "row 0" in said


def test_a_comparison_of_no_image_is_none_and_one_that_fails_names_the_image(tmp_path, monkeypatch):
    for name in ("red", "green"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "a.jpg").write_bytes(b"no image")
    processor = ConvZooImageProcessor(18, crop_size=16)
    with pytest.raises(ValueError, match="one at least must be readable; none is"):
        check_fast_decoding(open_split(str(tmp_path), "test"), processor, FAST)
    (tmp_path / "test/red/a.jpg").write_bytes(jpeg(smooth_image(30, 30)))

    def fail(self, image):
        raise ValueError("cannot crop")

    monkeypatch.setattr(FastImageProcessor, "_crop", fail)
    with pytest.raises(ValueError, match=r"red/a.jpg: cannot crop. Leave out --fast-decoding"):
        check_fast_decoding(open_split(str(tmp_path), "test"), processor, FAST)
