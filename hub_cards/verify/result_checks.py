"""Compare recorded results with repeated measurements, number by number.

What was not measured again is never said to hold.
"""

from collections.abc import Iterator, Sequence

from hub_cards.card.formatting import dataset_name, percent
from hub_cards.files import Record
from hub_cards.verify.checks import FAILS, HOLDS, OPEN, Check
from hub_cards.verify.intervals import (
    MIN_IMAGES_OF_MEAN,
    TOLERATED_SHARE,
    hits_interval,
    mean_interval,
    tolerated_images,
    tolerated_loss,
)

METRICS = {"top1_accuracy": "top-1", "top5_accuracy": "top-5", "loss": "loss"}
ERROR_RATE = 0.01  # how often a card that is right may be called wrong by a sample
MAX_CONFUSIONS = 20  # pairs that `convzoo evaluate` records, the most frequent ones
Comparison = tuple[str, str, Record]  # verdict, detail, facts


def check_results(
    results: Sequence[Record], answers: Sequence[Record], *, labels: Sequence[str] = ()
) -> list[Check]:
    """Compare recorded with repeated measurements.

    All images must give the recorded number of correct answers, but for what may differ between two
    machines; of a sample, the interval for all images must have it. The intervals are so wide that
    all together are wrong at most once in a hundred samples. A mean loss above its interval is no
    contradiction: a good model has few large losses, and a sample without them shows too little.

    Args:
        results: entries of `eval_results.json`.
        answers: for each, see `convzoo.evaluation.remeasuring.Answer`.
        labels: class names of the model, in the order of its logits; () if they are not known.
    """
    sampled = [answer for answer in answers if answer.get("seen", 0) < answer.get("num_images", 0)]
    by_real = sum("num_correct" in (answer.get("real") or {}) for answer in sampled)
    alpha = ERROR_RATE / max(1, len(sampled) * len(METRICS) + by_real)
    checks = []
    for number, (result, answer) in enumerate(zip(results, answers, strict=True)):
        try:
            checks += [*_check_result(result, answer, alpha=alpha, labels=labels)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            detail = f"not as `convzoo evaluate` writes it; {error!r}"
            checks.append(Check("result", FAILS, detail, f"results[{number}] of eval_results.json"))
    return checks


def _check_result(
    result: Record, answer: Record, *, alpha: float, labels: Sequence[str]
) -> Iterator[Check]:
    views = (result.get("protocol") or {}).get("views", 1)
    about = f"{dataset_name(result['dataset'])} [{result['dataset']['split']}]"
    about += f", {views} views" if views != 1 else ""
    if answer.get("derived"):
        yield _check_predictions(answer, about)
    if real := result.get("real_labels"):
        yield _check_real(real, answer, about, alpha=alpha)
    if "reason" in answer:
        yield Check("images", OPEN, answer["reason"], about)
        return
    yield _check_images(result, answer, about)
    if labels and answer.get("label_names"):
        yield _check_names(labels, answer["label_names"], about)
    if "preprocessing" in answer:
        yield _check_preprocessing(answer["preprocessing"], about)
    for metric, name in METRICS.items():
        claimed = result["metrics"].get(metric)
        # The first five of at most five classes are always right; no card says so.
        if claimed is not None and not (metric == "top5_accuracy" and 0 < len(labels) <= 5):
            compare = _compare_losses if metric == "loss" else _compare_hits
            verdict, detail, facts = compare(claimed, answer, metric=metric, alpha=alpha)
            facts = {"metric": metric, "recorded": claimed} | facts
            yield Check(name, verdict, detail, about, facts=facts)
    if answer["seen"] == answer["num_images"]:
        yield from _check_breakdown(result, answer, about)


def _check_predictions(answer: Record, about: str) -> Check:
    """Judge whether the numbers follow from the predictions file, and the file from the model."""
    derived = answer["derived"]
    file, seen = derived["file"], answer.get("seen", 0)
    name, facts = "predictions", {"derived": derived}
    if derived["problem"]:
        return Check(name, FAILS, derived["problem"], about, facts=facts)
    if wrong := derived["wrong"]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        detail = f"{', '.join(wrong[:3])}{more} do not follow from {file}"
        return Check(name, FAILS, detail, about, facts=facts)
    detail = f"all numbers follow from {file}, {derived['num_rows']:,} rows"
    if "same_answers" in derived:
        others = seen - derived["same_answers"]
        if others > tolerated_images(seen):
            detail = f"the model answers {others:,} of {seen:,} images otherwise than {file} says"
            return Check(name, FAILS, detail, about, facts=facts)
        detail += f"; the model answers {derived['same_answers']:,} of {seen:,} images as it says"
    return Check(name, HOLDS, detail, about, facts=facts)


def _check_real(recorded: Record, answer: Record, about: str, *, alpha: float) -> Check:
    """Judge the accuracy by reassessed labels: exactly by predictions, or by repeated answers."""
    name, again = "ReaL labels", answer.get("real") or {"reason": "they were not counted again"}
    claimed, total = recorded["top1_accuracy"], recorded["num_samples"]
    if "reason" in again:
        return Check(name, OPEN, f"trusted: {percent(claimed)}; {again['reason']}", about)
    hits, seen, file = again["num_correct"], again["num_samples"], again["predictions"]
    all_seen = bool(file) or answer["seen"] == answer["num_images"]
    facts: Record = {"metric": "real_labels", "recorded": claimed}
    if (seen != total) if all_seen else (seen > total):
        detail = f"recorded of {total:,} images, {seen:,} have labels in {recorded['file']}"
        return Check(name, FAILS, detail, about, facts=facts)
    if file:
        holds = (hits, claimed) == (recorded["num_correct"], hits / seen)
        detail = (
            f"recorded {percent(claimed)}; {percent(hits / seen)}, {hits:,} of {seen:,} images, "
            f"follow from {file} and {recorded['file']}"
        )
        facts |= {"measured": hits / seen}
        return Check(name, HOLDS if holds else FAILS, detail, about, facts=facts)
    counted = {"real_labels": hits, "seen": seen, "num_images": total}
    verdict, detail, more = _compare_hits(claimed, counted, metric="real_labels", alpha=alpha)
    return Check(name, verdict, detail, about, facts=facts | more)


def _check_preprocessing(others: Record, about: str) -> Check:
    """Judge whether users get the images that the result was measured with."""
    if not others:
        return Check("preprocessing", HOLDS, "as in preprocessor_config.json", about)
    key, (measured, published) = next(iter(others.items()))
    more = f", and {len(others) - 1} more differ" if len(others) > 1 else ""
    detail = f"measured with {key} {measured}, published with {published}{more}"
    return Check("preprocessing", FAILS, detail, about)


def _check_names(labels: Sequence[str], named: Sequence[str], about: str) -> Check:
    """Compare the names of the classes in config.json with those of the data."""
    if list(labels) == list(named):
        return Check("names", HOLDS, f"{len(labels)} classes are called as in the data", about)
    if sorted(labels) == sorted(named):
        first = next(n for n, label in enumerate(labels) if label != named[n])
        detail = f"class {first} is {named[first]!r} in the data, in config.json {labels[first]!r}"
        return Check("names", FAILS, detail, about)
    return Check("names", OPEN, "the data has other names for its classes", about)


def _check_breakdown(result: Record, answer: Record, about: str) -> Iterator[Check]:
    """Check classes, confusions and calibration, which only all images can tell."""
    # In its own class an answer that turns is not made up for by one that turns back elsewhere.
    tolerated = 2 * tolerated_images(answer["num_images"])
    recorded, measured = (
        {
            row["class"]: (row["num_samples"], row["num_correct"])
            for row in table.get("classes") or ()
        }
        for table in (result, answer)
    )
    if recorded:
        apart = sum(abs(recorded[key][1] - measured[key][1]) for key in recorded.keys() & measured)
        same_images = {key: row[0] for key, row in recorded.items()} == {
            key: row[0] for key, row in measured.items()
        }
        holds = same_images and apart <= tolerated
        detail = f"{len(recorded)} classes, {_apart(apart)}" if same_images else "other classes"
        yield Check("classes", HOLDS if holds else FAILS, detail, about)
    if result.get("confusions"):
        yield _check_confusions(result, answer, about)
    if result.get("calibration"):
        yield _check_calibration(result["calibration"], answer["calibration"], about)


def _check_confusions(result: Record, answer: Record, about: str) -> Check:
    if "confusions" not in answer:
        return Check("confusions", OPEN, "were not measured again", about)
    recorded, measured = (
        {(pair["name"], pair["predicted"]): pair["count"] for pair in table["confusions"]}
        for table in (result, answer)
    )
    apart = sum(
        abs(recorded[pair] - measured[pair])
        if pair in recorded and pair in measured
        else max(0, found[pair] - _rarest(other))
        for found, other in ((recorded, measured), (measured, recorded))
        for pair in found
        if found is recorded or pair not in recorded
    )
    holds = apart <= 2 * tolerated_images(answer["num_images"])
    detail = f"{len(recorded)} pairs of classes, {_apart(apart)}"
    return Check("confusions", HOLDS if holds else FAILS, detail, about)


def _rarest(pairs: dict[tuple[str, str], int]) -> int:
    """Images that a pair which is missing in a list may have: a full list has left pairs out."""
    return min(pairs.values()) if len(pairs) >= MAX_CONFUSIONS else 0


def _check_calibration(recorded: Record, measured: Record, about: str) -> Check:
    error, again = (each["expected_calibration_error"] for each in (recorded, measured))
    apart = [abs(error - again)]
    if "mean_confidence" in measured:
        apart.append(abs(recorded["mean_confidence"] - measured["mean_confidence"]))
    if "bins" in measured:
        images = sum(one["num_samples"] for one in measured["bins"])
        shares = [
            {one["low"]: one["num_samples"] / images for one in each["bins"]}
            for each in (recorded, measured)
        ]
        # An image that turns leaves one bin for another one.
        edges = {edge for share in shares for edge in share}
        moved = sum(abs(shares[0].get(edge, 0) - shares[1].get(edge, 0)) for edge in edges) / 2
        apart.append(moved - 2 * tolerated_images(images) / images)
    holds = max(apart) <= TOLERATED_SHARE
    detail = f"recorded error {percent(error)}, measured {percent(again)}"
    return Check("calibration", HOLDS if holds else FAILS, detail, about)


def _apart(images: int) -> str:
    return f"{images or 'no'} image{'s' * (images != 1)} apart"


def _check_images(result: Record, answer: Record, about: str) -> Check:
    proof = {
        "fingerprint": "have the recorded fingerprint",
        "commit": f"are those of the recorded commit {result['dataset'].get('revision')}",
    }[answer["identified"]]
    seen, images = answer["seen"], answer["num_images"]
    part = f"; {seen:,} of them drawn at random" if seen < images else ""
    detail = f"all {images:,} of {answer['data']} [{answer['split']}] {proof}{part}"
    facts = {key: answer[key] for key in ("data", "split", "identified", "num_images", "seen")}
    return Check("images", HOLDS, detail, about, facts=facts)


def _compare_hits(claimed: float, answer: Record, *, metric: str, alpha: float) -> Comparison:
    hits, seen, images = answer[metric], answer["seen"], answer["num_images"]
    tolerance = tolerated_images(images)
    facts = {"measured": hits / seen, "tolerance": tolerance / images}
    said = f"recorded {percent(claimed)}, measured {percent(hits / seen)}"
    low = high = hits
    if seen < images:
        low, high = hits_interval(hits, seen, num_images=images, alpha=alpha)
        facts |= {"interval": [low / images, high / images], "confidence": 1 - alpha}
        said += f", so in [{100 * low / images:.2f}, {100 * high / images:.2f}] %"
    recorded = round(claimed * images, 6)  # a fraction times its images is no whole number
    verdict = HOLDS if low - tolerance <= recorded <= high + tolerance else FAILS
    if verdict == FAILS or low != high:
        return verdict, said, facts
    return verdict, f"{said}, {_apart(abs(hits - round(claimed * images)))}", facts


def _compare_losses(claimed: float, answer: Record, *, metric: str, alpha: float) -> Comparison:
    mean, seen, images = answer[metric], answer["seen"], answer["num_images"]
    facts = {"measured": mean, "tolerance": tolerated_loss(claimed)}
    said = f"recorded {claimed:.4f}, measured {mean:.4f}"
    low = high = mean
    if seen < images:
        if seen < MIN_IMAGES_OF_MEAN:
            return OPEN, f"{said}; a sample for it needs {MIN_IMAGES_OF_MEAN} images", facts
        low, high = mean_interval(
            mean, answer["loss_deviation"], seen=seen, num_images=images, alpha=alpha
        )
        facts |= {"interval": [low, high], "confidence": 1 - alpha}
        said += f", so in [{low:.4f}, {high:.4f}]"
        if claimed > high + facts["tolerance"]:
            return OPEN, f"{said}; a sample may have missed the few large losses", facts
    holds = low - facts["tolerance"] <= claimed <= high + facts["tolerance"]
    return HOLDS if holds else FAILS, said, facts
