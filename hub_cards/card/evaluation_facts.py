"""Facts about the evaluations: results, weak classes, calibration, other images."""

from hub_cards.card.formatting import (
    HUB_ID,
    Rows,
    code,
    dataset_link,
    dataset_name,
    environment_rows,
    joined,
    link,
    percent,
    plain,
    present,
    provenance_rows,
    scalar,
    settings,
)
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

MAX_WEAK_ROWS = 5
MAX_UNREADABLE = 10


def accuracies(evidence: Evidence) -> list[tuple[str, str]]:
    """Names and keys of the accuracies that mean something for this number of classes."""
    top1, top5 = ("Top-1 accuracy", "top1_accuracy"), ("Top-5 accuracy", "top5_accuracy")
    return [top1, top5] if len(evidence.labels) > 5 else [top1]


def protocol_label(evidence: Evidence, result: Record) -> str:
    """Tell how the images were shown, where not in one view with the published preprocessing.

    And first of all where the model was trained on this split: then it is no evidence of what the
    model can do.
    """
    seen = "a split that it was trained on" if _trained_on(evidence, result["dataset"]) else ""
    return joined([seen, describe_protocol(evidence.preprocessor, result)])


def _trained_on(evidence: Evidence, dataset: Record) -> bool:
    """Tell whether the training had these images, but for those that it kept for validation."""
    trained = (evidence.train_results or {}).get("dataset") or {}
    names = {trained.get(key) for key in ("id", "path")} & {dataset.get("id"), dataset.get("path")}
    taken = (dataset.get("subset") or {}).get("taken") or ()
    kept_aside = any(step.get("part") == "validation" for step in taken)
    return bool(names - {None, ""}) and trained.get("split") == dataset["split"] and not kept_aside


def describe_protocol(published: Record, result: Record) -> str:
    """Tell the same of a result, where `published` are the settings of an image processor.

    Where they are not known, {}, what was changed of the crop on purpose is told.
    """
    protocol, views = result.get("protocol") or {}, (result.get("protocol") or {}).get("views", 1)
    changed = {
        key: value
        for key, value in (protocol.get("image_processor") or {}).items()
        if key in published and key != "auto_map" and published[key] != value
    }
    averaged, scales = protocol.get("averaged"), protocol.get("scales")
    return joined(
        [
            f"{views} views" if views != 1 else "",
            f"mean of the {plain(averaged)}" if averaged else "",
            "turned by EXIF" if protocol.get("exif_rotation") else "",
            "of whole images" if protocol.get("crops_of") == "image" else "",
            "with mirror images" if protocol.get("flip") else "",
            f"scales {', '.join(map(scalar, scales))}" if scales else "",
            plain(protocol.get("dtype") or ""),
            "channels last" if protocol.get("channels_last") else "",
            "compiled" if protocol.get("compiled") else "",
            "batch norms folded" if protocol.get("fused") else "",
            "fast decoding" if protocol.get("fast_decoding") else "",
            settings(changed if published else protocol.get("crop") or {}),
            chosen_among(result["dataset"].get("class_matching") or {}),
        ]
    )


def chosen_among(matching: Record) -> str:
    """Tell among how many classes the model chose, where not among all of its own."""
    among = f"among {matching.get('num_model_classes', 0):,} classes"
    if matching.get("restricted"):
        return f"{among}, those of the data only"
    return f"{among}, matched by a file" if matching.get("map") else ""


def headline(evidence: Evidence, result: Record) -> str:
    """One sentence with the most important number."""
    dataset, label = result["dataset"], protocol_label(evidence, result)
    article = "" if dataset.get("subset") else "the "
    return (
        f"**{percent(result['metrics']['top1_accuracy'])} top-1 accuracy** on "
        f"{article}{dataset['num_samples']:,} images of {plain(dataset_name(dataset))}, split "
        f"{code(dataset['split'])}{f' ({label})' if label else ''}{_unreadable(result)}."
    )


def _unreadable(result: Record) -> str:
    """Tell how many images could not be read; "" where all could."""
    count = (result.get("unreadable") or {}).get("num_images", 0)
    return f"; {count:,} unreadable image{'s' * (count > 1)} counted as wrong" if count else ""


def result_table(evidence: Evidence) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of the results, accuracies with their intervals."""
    columns = accuracies(evidence)
    rows = []
    for result in evidence.eval_results:
        dataset, metrics = result["dataset"], result["metrics"]
        intervals = result.get("intervals_95") or {}
        values = [
            _with_interval(metrics[key], intervals.get(key))
            if metrics.get(key) is not None
            else "not measured"
            for _, key in columns
        ]
        error = (result.get("calibration") or {}).get("expected_calibration_error")
        values.append(scalar(metrics.get("loss")) or "not measured")
        values.append("not measured" if error is None else percent(error))
        images = f"{dataset['num_samples']:,}"
        rows.append((_named(evidence, result), plain(dataset["split"]), images, *values))
    titles = [title for title, _ in columns]
    return ["Dataset", "Split", "Images", *titles, "Loss", "Calibration error"], rows


def baseline_table(evidence: Evidence) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of what other models reach on the same images, the best first."""
    rows: list[tuple[str, ...]] = []
    for result in sorted(evidence.baselines, key=lambda each: -each["metrics"]["top1_accuracy"]):
        dataset, model = result["dataset"], result["model"]
        name = plain(result["name"])
        if model.get("name") and HUB_ID.fullmatch(model["name"]):
            name = link(name, f"https://huggingface.co/{model['name']}")
        interval = (result.get("intervals_95") or {}).get("top1_accuracy")
        label = describe_protocol({}, result)
        where = f"{plain(dataset_name(dataset))}, split {code(dataset['split'])}"
        rows.append(
            (
                f"{name} ({label})" if label else name,
                where,
                _with_interval(result["metrics"]["top1_accuracy"], interval),
                f"{model['num_parameters']:,}",
                code(model["sha256"][:12]),
            )
        )
    return ["Model", "Images", "Top-1 accuracy", "Parameters", "SHA-256 of its weights"], rows


def _with_interval(fraction: float, interval: list[float] | None) -> str:
    if not interval:
        return percent(fraction)
    low, high = interval
    return f"{percent(fraction)} [{100 * low:.2f}, {100 * high:.2f}]"


def _named(evidence: Evidence, result: Record) -> str:
    name, label = dataset_link(result["dataset"]), protocol_label(evidence, result)
    return f"{name} ({label})" if label else name


def measurement_rows(evidence: Evidence, result: Record) -> Rows:
    """Give everything around one measurement but its results."""
    protocol = describe_protocol(evidence.preprocessor, result)
    rows = [
        ("Protocol", protocol or "one view, preprocessed as the card says"),
        *provenance_rows(result["dataset"]),
        ("Top-1 accuracy by reassessed labels (ReaL)", _real_labels(result)),
        ("Unreadable images, counted as wrong", _unreadable_images(result)),
        ("What the model said of each image", _predictions(evidence, result)),
        ("Images per second, with decoding", scalar(result.get("images_per_second"))),
        *environment_rows(result, evidence),
    ]
    return present(rows)


def _real_labels(result: Record) -> str:
    """Tell the accuracy by several right classes of an image; "" where that was not measured."""
    found = result.get("real_labels")
    if not found:
        return ""
    accuracy = _with_interval(found["top1_accuracy"], found.get("interval_95"))
    return f"{accuracy} of {found['num_samples']:,} images with labels in {code(found['file'])}"


def _unreadable_images(result: Record) -> str:
    found = result.get("unreadable") or {}
    names = [code(image["image"]) for image in found.get("images", ())[:MAX_UNREADABLE]]
    more = ", ..." if found.get("num_images", 0) > len(names) else ""
    return f"{found['num_images']:,}: {', '.join(names)}{more}" if found else ""


def _predictions(evidence: Evidence, result: Record) -> str:
    """Link the predictions file where it lies with the card, else give its hash."""
    record = result.get("predictions")
    if not record:
        return ""
    kept = "the scores of all" if record.get("logits") else f"the {record['top_k']} likeliest"
    sha256 = f"SHA-256 {code(record['sha256'])}"
    if (evidence.folder / record["file"]).is_file():
        where = f"[{record['file']}]({record['file']})"
    else:
        where = "a file that is not published"
    return f"{where}, {sha256}: {kept} classes, loss and rank of {record['num_rows']:,} images"


def largest_with(evidence: Evidence, part: str) -> Record | None:
    """The result with most images that has this part, rather of the published protocol; or None."""
    having = [result for result in evidence.eval_results if result.get(part)]
    published = [result for result in having if not protocol_label(evidence, result)]
    return max(
        published or having, key=lambda result: result["dataset"]["num_samples"], default=None
    )


def weak_spots(evidence: Evidence) -> Record | None:
    """The classes that the model knows worst and the pairs it confuses most.

    Returns:
        `where` they were measured, `lowest` and `highest` accuracy, and rows of `classes` and of
        `confusions`; None if no result has classes.
    """
    result = largest_with(evidence, "classes")
    if not result:
        return None
    classes = sorted(result["classes"], key=lambda row: row["top1_accuracy"])
    return {
        "where": _named(evidence, result),
        "lowest": percent(classes[0]["top1_accuracy"]),
        "highest": percent(classes[-1]["top1_accuracy"]),
        "classes": [
            (plain(row["name"]), f"{row['num_samples']:,}", percent(row["top1_accuracy"]))
            for row in classes[:MAX_WEAK_ROWS]
        ],
        "confusions": [
            (
                plain(row["name"]),
                plain(row["predicted"]),
                f"{row['count']:,}",
                percent(row["share"]),
            )
            for row in (result.get("confusions") or ())[:MAX_WEAK_ROWS]
        ],
    }


def calibration_sentence(evidence: Evidence) -> str:
    """Say in which direction probabilities are wrong; "" if that was not measured."""
    result = largest_with(evidence, "calibration")
    if not result:
        return ""
    confidence, accuracy = (
        result["calibration"]["mean_confidence"],
        result["metrics"]["top1_accuracy"],
    )
    verdict = "too sure" if confidence > accuracy else "too cautious"
    fitted = result["calibration"].get("temperature")
    remedy = ""
    if fitted:
        images, before = fitted["fitted_on"], fitted.get("ece_before")
        error = (
            f" and the calibration error from {before:.4g} to {fitted['ece_after']:.4g}"
            if before is not None
            else ""
        )
        remedy = (
            f" Logits divided by {fitted['value']:.4g}, a temperature that was fitted on "
            f"{images['num_samples']:,} images of split {code(images['split'])}, change the loss "
            f"here from {fitted['nll_before']:.4g} to {fitted['nll_after']:.4g}{error}"
            f"{_folds(images)}."
        )
    return (
        f"{_named(evidence, result)}: the model gives its answers a probability of "
        f"{percent(confidence)} on average and is right in {percent(accuracy)} of the cases: on "
        f"average it is {verdict}.{remedy}"
    )


def _folds(images: Record) -> str:
    """Tell where a temperature was measured on the images that it was fitted on."""
    parts = images.get("folds")
    return f", each image with one that was fitted without its part, of {parts}" if parts else ""


def robustness_sentences(evidence: Evidence) -> list[str]:
    """Results on other images than those of the training's dataset."""
    trained = _names((evidence.train_results or {}).get("dataset") or {})
    others = [r for r in evidence.eval_results if trained and not trained & _names(r["dataset"])]
    return [headline(evidence, result) for result in others]


def what_steered(evidence: Evidence) -> str:
    """Say which evaluated images decided over what in the training; "" if none did."""
    recipe, train = evidence.recipe, evidence.train_results or {}
    decided = [
        said
        for said, is_set in (
            ("the learning rate", recipe.get("schedule", {}).get("name") == "plateau"),
            ("which weights are published", recipe.get("run", {}).get("publish") == "best"),
            ("the end of the training", recipe.get("train", {}).get("early_stopping_patience")),
        )
        if is_set
    ]
    trained, validation = _names(train.get("dataset") or {}), train.get("validation") or {}
    split = recipe.get("data", {}).get("eval_split")
    which = f"The split `{split}`"
    measured = [d for d in (r["dataset"] for r in evidence.eval_results) if trained & _names(d)]
    if recipe.get("data", {}).get("eval_fraction"):
        which, split = "The validation share", validation.get("split")
        measured = [d for d in measured if d.get("subset") == validation.get("subset")]
    steered = any(dataset["split"] == split for dataset in measured)
    return f"{which} decided over {' and '.join(decided)}" if steered and decided else ""


def _names(dataset: Record) -> set[str]:
    own = (dataset.get("id"), dataset.get("path"), dataset.get("name"))
    return {name for name in (*own, *dataset.get("source_datasets", ())) if name} - {"original"}
