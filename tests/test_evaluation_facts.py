"""What a card says of evaluations."""

import json

import pytest
from huggingface_hub import ModelCard

from tests.support.model_folders import (
    BREAKDOWN,
    DATASET,
    PREPROCESSOR,
    cells,
    make_full,
    put,
    put_results,
    render,
    result,
    section,
)


def test_views_and_precision_that_are_not_as_usual_are_named(full):
    protocol = {"views": 20, "averaged": "logits", "crops_of": "image", "scales": [1.0, 1.25]}
    protocol |= {"dtype": "bfloat16", "channels_last": True, "compiled": True}
    protocol["fast_decoding"] = True
    flipped = {"views": 2, "averaged": "probabilities", "flip": True}
    both = [each | {"image_processor": PREPROCESSOR} for each in (protocol, flipped)]
    put_results(full, *(result(full, protocol=each) for each in both))
    evaluation = section(render(full), "Evaluation")
    label = "20 views, mean of the logits, of whole images, scales 1, 1.25, bfloat16, channels last"
    assert f"({label}, compiled, fast decoding)" in evaluation
    assert "(2 views, mean of the probabilities, with mirror images)" in evaluation


def test_ten_views_and_other_preprocessing_are_named(full):
    processor = PREPROCESSOR | {"crop_size": {"height": 200, "width": 200}}
    protocol = {"views": 10, "averaged": "probabilities", "image_processor": processor}
    put_results(full, result(full), result(full, protocol=protocol | {"exif_rotation": True}))
    card = render(full)
    names = [entry.metric_name for entry in ModelCard(card).data.eval_results]
    label = "10 views, mean of the probabilities, turned by EXIF, "
    label += '`crop_size = {"height": 200, "width": 200}`'
    headlines = [line for line in card.splitlines() if line.startswith("**30.80 %")]
    assert headlines[0].endswith("split `test`.") and headlines[1].endswith(f" ({label}).")
    assert names[0] == "Top-1 accuracy" and names[2] == f"Top-1 accuracy ({label})"
    assert f"Fashion-MNIST sample ({label})" in section(card, "Evaluation")


def test_a_part_of_a_split_never_passes_for_the_whole(full):
    taken = [{"classes": ["a", "b"]}, {"limit": 263, "spaced": True}]
    whole = DATASET | {"id": "ILSVRC/imagenet-1k", "name": "ImageNet", "subset": None}
    part = whole | {"subset": {"of": 50_000, "taken": taken}}
    put_results(full, result(full, dataset=whole), result(full, dataset=part))
    card = render(full)
    entries = ModelCard(card).data.eval_results
    assert entries[0].dataset_type == "ILSVRC/imagenet-1k" and entries[0].dataset_name == "ImageNet"
    assert entries[2].dataset_type == "imagenet-part-of-50-000-images-0a0a0a0a"
    assert entries[2].dataset_name == "ImageNet, part of 50,000 images"
    headlines = [line for line in card.splitlines() if line.startswith("**30.80 %")]
    assert "on the 263 images of ImageNet, split" in headlines[0]
    assert "on 263 images of ImageNet, part of 50,000 images, split" in headlines[1]
    assert '`classes = ["a", "b"]`; `limit = 263`, `spaced = true`' in section(card, "Measurement")


def test_other_answers_and_other_labels_are_named(full):
    """A model that chose among few classes, one whose classes a file matched, and ReaL labels."""
    matching = {"by": "name", "num_model_classes": 1200, "num_data_classes": 1200}
    restricted = DATASET | {"class_matching": matching | {"restricted": True}}
    mapped = {"by": "file", "num_model_classes": 7, "file": "m.csv", "map": {"a": ["Bag"]}}
    real = {"file": "real.json", "sha256": "0" * 64, "num_samples": 200, "num_correct": 100}
    real |= {"top1_accuracy": 0.5, "interval_95": [0.4314, 0.5686]}
    put_results(
        full,
        result(full, dataset=restricted),
        result(full, dataset=DATASET | {"class_matching": mapped}, real_labels=real),
    )
    card = render(full)
    evaluation = section(card, "Evaluation")
    assert "(among 1,200 classes, those of the data only)" in evaluation
    assert "(among 7 classes, matched by a file)" in evaluation
    assert "| 50.00 % [43.14, 56.86] of 200 images with labels in `real.json` |" in section(
        card, "Measurement"
    )


def test_unreadable_images_are_counted_and_named(full):
    calibration = json.loads(json.dumps(BREAKDOWN["calibration"]))
    bins = calibration["bins"]
    place = next(n for n, each in enumerate(bins) if each["num_samples"] - each["num_correct"] > 12)
    bins[place]["num_samples"] -= 12
    images = [{"row": n, "image": f"data/a b.parquet, row {n}", "error": "no"} for n in range(11)]
    facts = {"num_images": 12, "counted_as": "wrong", "images": images}
    put_results(full, result(full, unreadable=facts, calibration=calibration))
    card = render(full)
    assert "split `test`; 12 unreadable images counted as wrong." in card
    rows = dict(row[:2] for row in cells(section(card, "Measurement")) if len(row) == 2)
    names = ", ".join(f"`data/a b.parquet, row {n}`" for n in range(10))
    assert rows["Unreadable images, counted as wrong"] == f"12: {names}, ..."
    put_results(full, result(full, unreadable=facts))
    with pytest.raises(ValueError, match="calibration.bins of results.0. .* must agree"):
        render(full)


def test_evaluation_table_shows_counts_and_intervals(full):
    header, _, row = cells(section(render(full), "Evaluation"))[:3]
    shown = dict(zip(header, row, strict=True))
    assert shown == {
        "Dataset": "Fashion-MNIST sample",
        "Split": "test",
        "Images": "263",
        "Top-1 accuracy": "30.80 % [25.53, 36.62]",
        "Top-5 accuracy": "75.00 % [69.43, 79.85]",
        "Loss": "2.25",
        "Calibration error": "6.25 %",
    }


def test_top5_is_left_out_where_it_means_nothing(tmp_path):
    folder = make_full(tmp_path / "three", labels=["red", "green", "blue"])
    assert "Top-5" not in render(folder)
    assert "topk(3)" in render(folder)


def test_weak_spots_are_the_worst_classes_and_the_most_frequent_errors(full):
    text = section(render(full), "Weak spots")
    assert "the accuracy of a class is between 10.00 % and 75.00 %" in text
    classes = [row for row in cells(text) if len(row) == 3][2:]
    assert classes == [
        ["Trouser", "40", "10.00 %"],
        ["Sandal", "63", "14.29 %"],
        ["Dress", "40", "20.00 %"],
        ["Coat", "40", "25.00 %"],
        ["T-shirt/top", "40", "50.00 %"],
    ]
    errors = [row for row in cells(text) if len(row) == 4][2:]
    assert errors == [
        ["Sandal", "Sneaker", "50", "79.37 %"],
        ["Trouser", "Dress", "20", "50.00 %"],
    ]


def test_calibration_says_in_which_direction_the_model_errs(full):
    text = section(render(full), "Calibration")
    assert "a probability of 35.11 % on average and is right in 30.80 % of the cases" in text
    assert "on average it is too sure" in text and "reliability_diagram" not in text
    cautious = BREAKDOWN["calibration"] | {"mean_confidence": 0.2}
    put_results(full, result(full, calibration=cautious))
    assert "on average it is too cautious" in section(render(full), "Calibration")
    images = {"split": "validation", "fingerprint": "sha256:0a", "num_samples": 1500}
    fitted = {"value": 1.73, "fitted_on": images, "nll_before": 0.91, "nll_after": 0.84}
    put_results(full, result(full, calibration=cautious | {"temperature": fitted}))
    text = section(render(full), "Calibration")
    assert "Logits divided by 1.73, a temperature that was fitted on 1,500 images" in text
    assert "of split `validation`, change the loss here from 0.91 to 0.84." in text
    fitted |= {"ece_before": 0.05, "ece_after": 0.01}
    put_results(full, result(full, calibration=cautious | {"temperature": fitted}))
    said = "0.84 and the calibration error from 0.05 to 0.01."
    assert said in section(render(full), "Calibration")


def test_robustness_is_what_was_measured_on_other_datasets(full):
    assert section(render(full), "Robustness") == "Not measured."
    other = DATASET | {"path": "x/sketch", "id": "x/sketch", "name": "Sketches"}
    other |= {"source_datasets": ["original"]}
    put_results(full, result(full), result(full, dataset=other))
    text = section(render(full), "Robustness")
    assert text.count("top-1 accuracy") == 1 and "263 images of Sketches, split `test`" in text


def test_a_split_that_steered_the_training_is_named_as_such(full):
    plateau = '[schedule]\nname = "plateau"\n[data]\neval_split = "{}"\n'
    for split, named in (("test", True), ("validation", False)):
        put(full, "recipe.toml", plateau.format(split))
        text = section(render(full), "Limitations and bias")
        said = f"The split `{split}` decided over the learning rate, so the accuracy on those"
        assert (said in " ".join(text.split())) == named


def test_a_validation_share_is_named_and_so_is_what_it_decided(full):
    share = {"of": 300, "taken": [{"eval_fraction": 0.2, "seed": 42, "part": "validation"}]}
    settings = '[run]\npublish = "best"\n[train]\nearly_stopping_patience = 3\n'
    put(full, "recipe.toml", f"{settings}[data]\neval_fraction = 0.2\n")
    train = json.loads((full / "train_results.json").read_text())
    train["validation"] = DATASET | {"split": "train", "subset": share}
    put(full, "train_results.json", train)
    put_results(full, result(full, dataset=train["validation"]))
    card = " ".join(render(full).split())
    assert "validation share of 300 images" in card
    assert (
        "The validation share decided over which weights are published and the end of the training"
        in card
    )
    put_results(full, result(full))  # the test split, which decided nothing
    assert "decided over" not in render(full)


def test_weak_spots_are_those_of_the_published_protocol(full):
    protocol = {"views": 10, "averaged": "probabilities", "image_processor": PREPROCESSOR}
    other = result(full, protocol=protocol, classes=BREAKDOWN["classes"][::-1])
    put_results(full, other, result(full))
    assert "Fashion-MNIST sample: the accuracy of a class" in section(render(full), "Weak spots")


def test_an_accuracy_on_images_of_the_training_never_passes_for_another(full):
    train = json.loads((full / "train_results.json").read_text())
    train["dataset"] = DATASET | {"split": "train"}
    put(full, "train_results.json", train)
    share = {"of": 300, "taken": [{"eval_fraction": 0.2, "seed": 42, "part": "validation"}]}
    learnt = result(full, dataset=train["dataset"], classes=BREAKDOWN["classes"][::-1])
    kept_aside = result(full, dataset=train["dataset"] | {"subset": share})
    put_results(full, learnt, result(full), kept_aside)
    card = ModelCard(render(full))
    names = [entry.metric_name for entry in card.data.eval_results]
    assert [name.endswith("(a split that it was trained on)") for name in names[::2]] == [1, 0, 0]
    assert card.text.count("`train` (a split that it was trained on).") == 1
    put_results(full, result(full))
    assert section(render(full), "Weak spots") == section(card.text, "Weak spots")
