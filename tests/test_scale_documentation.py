"""docs/scale.md tells the truth: its figures are those of the result file."""

from tests.support.documents import Page, result_file

PAGE = Page("docs/scale.md")
CONTENT = result_file("scale")
MEASURED = {
    "to resume in the third epoch, CPU seconds": "resume_cpu",
    "to lay out the next epoch, in a thread, CPU seconds": "next_epoch_cpu",
    "longest of the steps around the end of an epoch, milliseconds": "boundary_step_seconds",
    "memory held in an epoch, MB": "held_in_an_epoch",
    "memory held with the next epoch, MB": "held_with_the_next",
    "most memory at any moment, MB": "most",
}
OF_GPUS = {
    "global batch": ("global_batch_size", ",.0f"),
    "images per second": ("images_per_second", ",.0f"),
    "a step, milliseconds": ("step_milliseconds", ".1f"),
    "an epoch, seconds": ("epoch_seconds", ".1f"),
    "openings of a row group in an epoch": ("openings_of_a_row_group", ".2f"),
    "read from the Hub, GB/s": ("gigabytes_per_second", ",.2f"),
    "requests in 5 minutes": ("requests_in_5_minutes", ",.0f"),
    "memory of a host for reading, GB": ("gigabytes_of_a_host", ".1f"),
    "gradients of a GPU in a step, MB": ("gradient_megabytes_of_a_gpu", ".0f"),
    "their time, as a share of the step": ("gradient_share_of_step", ".1%"),
    "checkpoint, as a share of an epoch": ("checkpoint_share_of_an_epoch", ".0%"),
}


def order_rows(content):
    rows = []
    for title, key in MEASURED.items():
        cells = []
        for dataset in content["order"]["datasets"].values():
            values, digits = dataset[key], 2 if "cpu" in key else 0
            if key == "boundary_step_seconds":
                values, digits = [1000 * value for value in values], 1
            cells.append("{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*values, d=digits))
        rows.append([title, *cells])
    return rows


def gpu_rows(content):
    return [
        [title, *(f"{row[key]:{form}}".replace("%", " %") for row in content["arithmetic"]["rows"])]
        for title, (key, form) in OF_GPUS.items()
    ]


def constant_rows(content):
    rows = []
    for name, constant in content["arithmetic"]["constants"].items():
        value = constant["value"]
        if isinstance(value, dict):
            text = ", ".join(f"{plan} {count:,}" for plan, count in value.items())
        else:
            text = f"{value:,.12g}"
        rows.append([name.replace("_", " "), text, constant["from"]])
    return rows


def sentences_of(content):
    """What the page says in words, in its order."""
    million, billion = content["opening"]["datasets"].values()
    n = content["opening"]["n"]
    eight, many, most = content["arithmetic"]["rows"]
    known = {key: each["value"] for key, each in content["arithmetic"]["constants"].items()}
    allowed = known["requests_allowed_in_5_minutes"]
    return [
        f"Opening 14 million images in {content['opening']['files']['14 million']:,} local parquet "
        f"files takes {million['cpu'][0]:.1f} CPU seconds (n = {n['14 million']}),",
        f"a billion in {content['opening']['files']['1 billion']:,} files {billion['cpu'][0]:.0f}, "
        f"and the process then holds {billion['held'][0]:,.0f} MB (n = {n['1 billion']}).",
        f"8 GPUs at full speed ask {eight['requests_in_5_minutes']:,} times in 5 minutes; the Hub "
        f"allows {allowed['PRO']:,} to a PRO account and {allowed['Enterprise Plus']:,} to an "
        f"Enterprise Plus one.",
        f"{many['openings_of_a_row_group']:.2f}",
        f"{many['openings_with_one_worker']:.2f}",
        f"{known['crops_per_second_of_a_core']:.0f}",
        f"{eight['cores_of_a_gpu']}",
        f"At 512 GPUs with 16 images each they take {most['gradient_share_of_step']:.0%} of the "
        f"step, at 64 GPUs with 128 each {many['gradient_share_of_step']:.0%}.".replace("%", " %"),
        f"At 512 GPUs an epoch of ImageNet takes {most['epoch_seconds']} s and a checkpoint "
        f"{known['checkpoint_seconds']} s.",
        f"{max(row['gigabytes_of_a_host'] for row in content['arithmetic']['rows'])}",
    ]


def test_it_is_a_short_page_with_links_to_files_that_exist():
    PAGE.check_form()


def test_the_tables_are_those_of_the_result_file():
    assert PAGE.table("| what a reader needs") == order_rows(CONTENT)
    assert PAGE.table("| GPUs |") == gpu_rows(CONTENT)
    assert PAGE.table("| constant |") == constant_rows(CONTENT)


def test_the_sentences_are_those_of_the_result_file():
    for sentence in sentences_of(CONTENT):
        assert " ".join(sentence.split()) in PAGE.sentences, sentence
    assert f"median of {CONTENT['order']['n']} [least, most]" in PAGE.sentences


def test_a_billion_images_are_within_the_aims():
    billion = CONTENT["order"]["datasets"]["1 billion"]
    assert billion["resume_cpu"][0] < 1 and billion["boundary_step_seconds"][2] < 1
    assert billion["most"][2] < 500
