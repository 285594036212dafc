"""The card of an exported model."""

from typing import Any

import yaml
from PIL import Image

LIBRARIES = {"torch-export": "pytorch", "onnx": "onnx", "int8-onnx": "onnx"}
RUNNERS = {"torch-export": "torch", "onnx": "onnxruntime", "int8-onnx": "onnxruntime"}


def export_card(
    facts: dict[str, Any], settings: dict[str, Any], *, license_facts: dict[str, Any]
) -> str:
    """Write the card: front matter as the Hub reads it, how to use the file, and what was lost.

    Args:
        facts: the contents of export.json.
        settings: the contents of preprocessor_config.json.
        license_facts: what the model's own card says of its licence.
    """
    form, model = facts["format"], facts["model"]
    front: dict[str, Any] = dict(license_facts)
    if model["base_model"]:
        front["base_model"] = model["base_model"]
        if form == "int8-onnx":
            front["base_model_relation"] = "quantized"
    front |= {"library_name": LIBRARIES[form], "pipeline_tag": "image-classification"}
    front["tags"] = [model["model_type"], form]
    shape = " x ".join(str(each) for each in facts["input"]["shape"])
    versions = facts["environment"]["versions"]
    used = ", ".join(
        f"{key} {versions[key]}" for key in ("torch", "onnxruntime") if versions.get(key)
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {model["name"]} as {form}

`{facts["file"]}` is [{model["name"]}]{_address(model)} ({model["model_type"]},
{len(facts["classes"])} classes) in another format. It runs without the code of the model:

```bash
pip install {RUNNERS[form]} numpy Pillow
python classify.py photo.jpg
```

The input `pixel_values` is float32, {shape}; the output `logits` is batch x
{len(facts["classes"])}. `export.json` has the names of the classes in this order.
{_costs(facts)}

## Pixels

{chr(10).join(f"{n}. {step}." for n, step in enumerate(_steps(settings), start=1))}

`classify.py` does this with numpy and Pillow. The numbers are those of
`preprocessor_config.json`.

## What was lost

{_loss(facts["check"], is_int8=form == "int8-onnx")}

Made on {facts["date"]} with {used}:

```bash
{facts["command"]}
```
"""


def _costs(facts: dict[str, Any]) -> str:
    """Say how large the network is."""
    count = facts.get("num_multiply_adds")
    each = f", and an image of the usual size takes {count:,} multiply-adds" if count else ""
    return f"The network has {facts['num_parameters']:,} parameters{each}."


def _address(model: dict[str, Any]) -> str:
    if not model["base_model"]:
        return ""
    return f"(https://huggingface.co/{model['base_model']})"


def _steps(settings: dict[str, Any]) -> list[str]:
    """Say in words what happens to an image."""
    colours = "RGB" if settings["num_channels"] == 3 else "grey"
    steps = [f"Turn it by its EXIF orientation, and convert it to {colours}, values 0 to 255"]
    if settings.get("do_resize", True):
        kind = Image.Resampling(settings["resample"]).name.lower()
        steps.append(
            f"Resize the shorter side to {settings['size']['shortest_edge']} pixels ({kind}, "
            f"antialiased, of Pillow); the longer side is rounded down"
        )
    if settings.get("do_center_crop", True):
        crop = settings["crop_size"]
        steps.append(f"Crop {crop['height']} x {crop['width']} pixels at the centre")
    if settings.get("do_rescale", True) and settings["rescale_factor"] != 1:
        steps.append(f"Multiply by {settings['rescale_factor']:.6g}")
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
        steps.append(f"Subtract the mean {mean}, divide by the standard deviation {std}")
    return [
        *steps,
        f"Channels first, in the order {'red, green, blue' * (colours == 'RGB') or colours}",
    ]


def _loss(check: dict[str, Any], *, is_int8: bool) -> str:
    """Say how the export compares with the model."""
    same = (
        f"On {check['num_images']} images ({check['images']}) {check['same_decisions']} decisions "
        f"are those of the model. The largest difference of a logit is "
        f"{check['largest_difference']:.1e}; the largest logit is {check['largest_logit']:.3g}."
    )
    if not is_int8:
        return f"Nothing but rounding. {same}"
    return (
        f"Weights and activations have 8 bits. {same} The ranges of the activations are those of "
        f"{check['calibration_images']} other images. Accuracy was not measured."
    )
