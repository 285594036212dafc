"""A sweep of sizes that was interrupted measures no size again that it has finished."""

import json
import logging

import pytest
import torch

from convzoo.cli import main
from convzoo.evaluation.results import read_results
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.images import COLOURS


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    sizes = {"stem": "small", "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
    CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **sizes)).save_pretrained(tmp_path / "a model")
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path / "a model")
    return tmp_path / "a model"


def measured(patch, *, stop_at=0):
    """Images of each size that the network is shown from now on; it is interrupted at a size."""
    seen, real = {}, CNN.forward

    def forward(self, pixel_values, **options):
        side = pixel_values.shape[-1]
        if pixel_values.device.type != "meta" and len(pixel_values) > 1:  # not one to try it
            if side == stop_at:
                raise KeyboardInterrupt
            seen[side] = seen.get(side, 0) + len(pixel_values)
        return real(self, pixel_values, **options)

    patch.setattr(CNN, "forward", forward)
    return seen


def test_an_interrupted_sweep_goes_on_and_a_finished_one_measures_again(
    model, colour_data, *, monkeypatch, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "convzoo")
    written = tmp_path / "sizes.json"
    command = ["evaluate", str(model), "--data", str(colour_data), "--size", "12,14,16"]
    command += ["--num-workers", "0", "--output", str(written)]
    with monkeypatch.context() as patch:
        seen = measured(patch, stop_at=16)
        assert main(command) == 130
        assert seen == {12: 23, 14: 23}
    assert len(read_results(model)) == 2
    (model / "eval_results.json").unlink()  # is recorded again
    with monkeypatch.context() as patch:
        seen = measured(patch)
        assert main(command) == 0
        assert seen == {16: 23}
    assert "size 12 is done already" in caplog.text
    sweep = json.loads(written.read_text())
    assert [each["protocol"]["crop"]["size"] for each in sweep] == [12, 14, 16]
    assert sweep == read_results(model)
    assert not [*(model / "predictions").glob(".*")]
    with monkeypatch.context() as patch:
        seen = measured(patch)
        assert main(command) == 0
        assert seen == {12: 23, 14: 23, 16: 23}


def test_other_weights_are_measured_anew(model, colour_data, monkeypatch):
    command = ["evaluate", str(model), "--data", str(colour_data), "--size", "12,14"]
    with monkeypatch.context() as patch:
        measured(patch, stop_at=14)
        assert main([*command, "--num-workers", "0"]) == 130
    (kept,) = (model / "predictions").glob(".*.sizes.json")
    other = CNN.from_pretrained(model)
    torch.nn.init.normal_(other.classifier.weight)
    other.save_pretrained(model)
    with monkeypatch.context() as patch:
        seen = measured(patch)
        assert main([*command, "--num-workers", "0"]) == 0
        assert seen == {12: 23, 14: 23}
    assert not kept.exists()
