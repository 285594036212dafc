"""What a card says of the model itself, and what it quotes."""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from tests.support.model_folders import (
    NAMES,
    NUM_BUFFERS,
    NUM_PARAMETERS,
    PREPROCESSOR,
    cells,
    make_bare,
    put,
    put_results,
    render,
    section,
    weights_hash,
)


def test_details_count_parameters_without_buffers(full):
    details = dict(cells(section(render(full), "Model details")))
    assert details["Parameters"] == f"{NUM_PARAMETERS} ({NUM_PARAMETERS})"
    assert details["Batch-norm buffers"] == str(NUM_BUFFERS)
    assert details["SHA-256 of the weights"] == f"`{weights_hash(full)}`"
    assert details["Classes"] == f"9: {', '.join(NAMES)}"
    assert details["Input"] == "3 x 224 x 224"


def test_preprocessing_is_that_of_the_processor(full):
    steps = section(render(full), "Preprocessing")
    assert "shorter side to 235 pixels, keeping the aspect ratio (bicubic)" in steps
    assert "224 x 224" in steps and "Divide the values by 255." in steps
    assert "mean (0.485, 0.456, 0.406) and divide by (0.229, 0.224, 0.225)" in steps
    raw = {"rescale_factor": 1.0, "image_mean": [123.675, 116.28, 103.53], "image_std": [1.0] * 3}
    put(full, "preprocessor_config.json", PREPROCESSOR | raw)
    put_results(full)
    steps = section(render(full), "Preprocessing")
    assert "Divide the values" not in steps and "mean (123.675, 116.28, 103.53)" in steps


SWITCHES = {
    "do_resize": ("Resize the shorter", "3 x 224 x 224"),
    "do_center_crop": ("Cut out the centre", "3 channels, 235 pixels at the shorter side"),
    "do_rescale": ("Divide the values", "3 x 224 x 224"),
    "do_normalize": ("Subtract the mean", "3 x 224 x 224"),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_step_that_the_processor_leaves_out_is_not_described(bare, switch):
    left_out, shape = SWITCHES[switch]
    assert left_out in section(render(bare), "Preprocessing")
    put(bare, "preprocessor_config.json", PREPROCESSOR | {switch: False, "exif_rotation": True})
    steps = section(render(bare), "Preprocessing")
    assert left_out not in steps and "1. Turn the image as its EXIF data says." in steps
    assert len(re.findall(r"^\d\. ", steps, re.M)) == 5
    assert ("black beyond a smaller image" in steps) == (switch == "do_resize")
    assert dict(cells(section(render(bare), "Model details")))["Input"] == shape


def test_known_datasets_come_with_what_is_published_about_them(full):
    text = section(render(full), "Training data")
    assert "https://arxiv.org/abs/1708.07747" in text and "1409.0575" not in text


def test_class_names_cannot_break_a_table(tmp_path):
    folder = make_bare(tmp_path / "odd", labels=["a|b", "c\nd", "e"])
    row = next(line for line in render(folder).splitlines() if line.startswith("| Classes"))
    assert row == r"| Classes | 3: a\|b, c d, e |"


def test_unnamed_and_many_classes_are_not_listed(tmp_path):
    unnamed = make_bare(tmp_path / "unnamed", labels=[f"LABEL_{i}" for i in range(9)])
    assert "| Classes | 9, without names |" in render(unnamed)
    many = make_bare(tmp_path / "many", labels=[f"kind {i}" for i in range(1200)])
    assert "| Classes | 1,200, named in [config.json](config.json) |" in render(many)


def make_imagenet(folder, model_type, num_parameters, *, labels=1000, **config):
    """A folder that says it is the original architecture: as many parameters, 1000 classes."""
    make_bare(folder, model_type, labels=[f"class {i}" for i in range(labels)], **config)
    save_file({"all": torch.zeros(num_parameters, dtype=torch.uint8)}, folder / "model.safetensors")
    return folder


QUOTED = {
    ("cnn", 25_602_488): ["78.01 %", "93.89 %"],
    ("alexnet", 61_100_840): ["56.52 %", "79.07 %"],
    ("qlnet", 9_993_640): ["78.40 %", "not reported"],
}


@pytest.mark.parametrize(("model_type", "num_parameters"), QUOTED)
def test_quoted_numbers_are_marked_and_never_ours(tmp_path, model_type, num_parameters):
    card = render(make_imagenet(tmp_path / "model", model_type, num_parameters))
    (row,) = cells(section(card, "Quoted, not measured here"))[2:]
    assert row[1:3] == QUOTED[model_type, num_parameters]
    assert "](https://" in row[4]
    assert card.count(row[1]) == 1 and ModelCard(card).data.eval_results is None
    assert section(card, "Evaluation") == "Not measured."


def test_other_architectures_get_no_quoted_numbers(tmp_path):
    others = [
        make_imagenet(tmp_path / "classes", "cnn", 25_602_488, labels=10),
        make_imagenet(tmp_path / "size", "cnn", 25_602_487),
        make_imagenet(tmp_path / "family", "qlnet", 25_602_488),
        make_imagenet(tmp_path / "field", "alexnet", 61_100_840, use_lrn=True),
    ]
    for folder in others:
        assert "Quoted" not in render(folder)


def test_converted_weights_keep_the_license_of_their_project(bare):
    conversion = {
        "source": {"file": "alexnet.pth", "sha256": "ab" * 32},
        "format": "AlexNet of torchvision",
        "project": "https://github.com/pytorch/vision",
        "num_parameters": NUM_PARAMETERS,
        "converter": "convzoo 0.1.0",
    }
    put(bare, "conversion.json", conversion)
    card = render(bare)
    assert ModelCard(card).data.license == "bsd-3-clause"
    origin = dict(cells(section(card, "Model details")))["Converted from"]
    assert "[AlexNet of torchvision](https://github.com/pytorch/vision)" in origin
    assert f"`alexnet.pth`, SHA-256 `{'ab' * 32}`, by convzoo 0.1.0" in origin
    put(bare, "conversion.json", conversion | {"project": "https://example.org"})
    assert ModelCard(render(bare)).data.license == "unknown"


def test_a_licence_that_the_hub_does_not_know_has_a_name_and_a_text(full):
    put(full, "recipe.toml", '[run]\nlicense = "other"\nlicense_name = "zoo-1.0"\n')
    with pytest.raises(ValueError, match="a file LICENSE; run.license_name of recipe.toml"):
        render(full)
    put(full, "LICENSE", "Look, do not touch.")
    card = render(full)
    data = ModelCard(card).data
    assert (data.license, data.license_name) == ("other", "zoo-1.0")
    assert "The weights: `zoo-1.0`" in card
    put(full, "recipe.toml", '[run]\nlicense = "mit"\nlicense_name = "zoo-1.0"\n')
    assert "zoo-1.0" not in render(full)


def test_a_recipe_can_name_another_license(full):
    put(full, "recipe.toml", '[run]\nlicense = "cc-by-nc-4.0"\n')
    assert ModelCard(render(full)).data.license == "cc-by-nc-4.0"
    assert "The weights: `cc-by-nc-4.0`." in section(render(full), "License")


def test_a_benchmark_gives_speed_and_multiply_adds_to_the_card(bare):
    row = {"batch_size": 16, "dtype": "float32", "preparation": "fused", "images_per_second": 41.26}
    result = {
        "model": {"sha256": weights_hash(bare), "num_multiply_adds": 4_100_000_000},
        "rows": [
            row | {"is_model": True},
            row | {"is_model": True, "batch_size": 1, "images_per_second": 30.0},
            row | {"is_model": False, "images_per_second": 99.0},
        ],
        "threads": 1,
        "environment": {"processor": "EPYC 9R14", "accelerator": None},
    }
    put(bare, "speed_results.json", result)
    details = dict(cells(section(render(bare), "Model details")))
    assert details["Multiply-adds per image"] == "4,100,000,000"
    assert details["Speed"] == (
        "41.3 images per second (batch 16, float32, fused; EPYC 9R14, 1 thread)"
    )
    put(bare, "speed_results.json", result | {"model": {"sha256": "0" * 64}})
    with pytest.raises(ValueError, match="speed_results.json in .* is stale"):
        render(bare)
