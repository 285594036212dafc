"""The pages on speed tell the truth: their figures are those of the result files."""

import re

from tests.support.clients import ROOT
from tests.support.documents import Page, result_file

PAGE, INFERENCE = Page("docs/speed.md"), Page("docs/inference-speed.md")


def test_the_speeds_are_those_of_the_result_file():
    content = result_file("input_pipeline_2cpu")
    assert f"median of {content['rounds']} rounds [least, most]" in PAGE.sentences
    for run, name in zip(content["runs"], ("ImageNet", "`data/photos`"), strict=True):
        assert f"{name}, {run['mean_bytes'] / 1e3:.0f} kB an image" in PAGE.text
    parts = {
        "crop and flip": "crop",
        "with RandAugment and erasing": "crop_policy_erasing",
        "crop and flip from parquet files": "streamed_crop",
    }
    rows = PAGE.table("| pipeline |")
    assert len(rows) == 8
    for name, *cells in rows:
        title, variant = name.split(": ")
        measured = [run[parts[title]] for run in content["runs"]]
        if variant == "ours, images per second":
            speeds = [each["convzoo"]["images_per_second_median"] for each in measured]
            assert cells == [f"{speed:.0f}" for speed in speeds]
        else:
            ratios = [
                [each[variant][f"ratio_{key}"] for key in ("median", "min", "max")]
                for each in measured
            ]
            assert cells == [f"{mid:.2f} [{low:.2f}, {high:.2f}]" for mid, low, high in ratios]


def test_the_speed_of_a_crop_is_that_of_the_result_file():
    runs = result_file("input_pipeline_2cpu")["runs"]
    (run,) = (each for each in runs if each["data"] == "imagenet-sample")
    ours = run["crop"]["convzoo"]["images_per_second_median"]
    (peer,) = (
        row for name, row in run["crop"].items() if name.startswith("Pillow + torchvision v1")
    )
    low, middle, high = (peer[f"ratio_{key}"] for key in ("min", "median", "max"))
    sentence = (
        f"makes {ours:.0f} crops a second on one CPU thread from ImageNet photographs; "
        f"torchvision's transforms on Pillow images need {middle:.2f} [{low:.2f}, {high:.2f}] "
        f"times its CPU time"
    )
    assert sentence in PAGE.sentences
    whole = run["crop"]["convzoo, without turbojpeg"]
    low, middle, high = (whole[f"ratio_{key}"] for key in ("min", "median", "max"))
    sentence = f"decoded whole, at {middle:.2f} [{low:.2f}, {high:.2f}] times the CPU time"
    assert sentence in PAGE.sentences


def test_the_cost_of_the_fast_path_is_that_of_the_result_file():
    content = result_file("fast_path_accuracy")
    error, difference = content["pixel_error"], content["fast_minus_exact"]
    low, high = (100 * limit for limit in difference["confidence_interval_95"])
    for part in (
        f"{error['mean']:.4f} levels of 255 on average and {error['max']} at most",
        f"{100 * content['fast']['mean']:.2f} % with the package's crops and "
        f"{100 * content['exact']['mean']:.2f} % with exact ones (n = {content['n']} seeds each)",
        f"the difference within a seed is {100 * difference['mean']:+.2f} points, 95 % confidence "
        f"interval {low:+.2f} to {high:+.2f}",
    ):
        assert part in PAGE.sentences, part


def test_recorded_commands_name_folders_of_this_repository_or_say_folder():
    for name in ("input_pipeline_2cpu", "fast_path_accuracy"):
        command = result_file(name)["command"]
        folders = re.findall(r"--(?:data|photographs) ([^-]+)(?: |$)", command)
        assert folders
        for folder in " ".join(folders).split():
            assert folder == "FOLDER" or (ROOT / folder).is_dir(), command


def test_the_table_of_steps_is_that_of_the_result_file():
    content = result_file("training_step_avx2")
    assert content["threads"] == 1 and f"{content['batch_size']} images of 224" in PAGE.sentences
    assert f"takes {content['data_milliseconds_per_image']} more" in PAGE.sentences
    assert f"median of {content['n']} rounds" in PAGE.sentences
    expected = []
    for row in content["rows"]:
        parts = [
            str(row["milliseconds_per_image"][p]) for p in ("forward", "backward", "optimizer")
        ]
        middle, low, high = row["speed_over_peer"]
        expected.append([row["network"], *parts, f"{middle:.2f} [{low:.2f}, {high:.2f}]"])
    assert PAGE.table("| network |") == expected


def test_the_time_of_a_step_is_that_of_the_result_files():
    here, elsewhere = (
        {
            row["network"]: "{:.2f} [{:.2f}, {:.2f}]".format(*row["speed_over_peer"])
            for row in result_file(name)["rows"]
        }
        for name in ("training_step_avx2", "training_step_cpu")
    )
    peer = "Transformers ResNet-50"
    for sentence in (
        f"a training step of the CNN (PReLU) is {here['CNN, PReLU']} times as fast as one of "
        f"Transformers' ResNet-50 as its examples train it, QLNet's {here['QLNet']} times",
        f"compiled it is {here['CNN, PReLU, compiled']} times as fast, Transformers' "
        f"{here[f'{peer}, compiled']} times",
        f"on another one, with PyTorch's PReLU, the CNN was {elsewhere['CNN, PReLU']} times as",
        f"with our settings is {here[f'{peer}, our settings']} times as fast as its examples "
        f"train it, our CNN with ReLU {here['CNN, ReLU']} times, with PyTorch's PReLU "
        f"{here['CNN, PReLU of PyTorch']} times",
    ):
        assert sentence in PAGE.sentences


def test_the_table_of_whole_networks_is_that_of_the_result_file():
    content = result_file("inference_speed")
    assert content["bfloat16_instructions"] and content["threads"] == 1
    assert f"in the same process, median of {content['n']} rounds" in INFERENCE.sentences
    columns = [(size, allocator) for size in (16, 1) for allocator in ("default", "kept")]
    measured, speeds = {}, {}
    for row in content["rows"]:
        name, column = f"{row['network']}, {row['way']}", (row["batch_size"], row["allocator"])
        speeds[name, column] = row["images_per_second"]
        cell = "{:.2f} [{:.2f}, {:.2f}]".format(*row["speed_over_peer"])
        measured.setdefault(name, {})[column] = cell
    assert INFERENCE.table("| whole network |") == [
        [name, *(cells[column] for column in columns)] for name, cells in measured.items()
    ]
    default, kept = (speeds["timm ResNet-50, as loaded", column] for column in columns[:2])
    assert f"classifies {default} and {kept} of 16 images a second" in INFERENCE.sentences


def test_the_cost_of_prelu_in_a_step_is_that_of_the_result_files():
    ours, plain = (
        [
            "{:.2f} [{:.2f}, {:.2f}]".format(*row["speed_over_peer"])
            for precision in ("float32", "bfloat16")
            for row in result_file(f"training_step_prelu_{precision}")["rows"]
            if row["network"] == name
        ]
        for name in ("CNN, PReLU", "CNN, PReLU of PyTorch")
    )
    assert f"with PReLU has {ours[0]} times the speed of one with ReLU" in PAGE.sentences
    assert f"and {ours[1]} times in [bfloat16]" in PAGE.sentences
    assert f"with PyTorch's PReLU {plain[0]} and {plain[1]} times (3 rounds)" in PAGE.sentences
    assert all(
        result_file(f"training_step_prelu_{precision}")["n"] == 3
        for precision in ("float32", "bfloat16")
    )


def test_the_table_of_processes_is_that_of_the_result_file():
    content = result_file("processes_2cpu")
    assert f"median of {content['n']} runs" in PAGE.sentences
    key = "largest_relative_difference_of_a_loss"
    assert PAGE.table("| processes |") == [
        [
            str(row["processes"]),
            "{:,.0f} [{:,.0f}, {:,.0f}]".format(*row["images_per_second"]),
            f"{row[key + '_in_20_steps']:.0e}",
            f"{row[key]:.0e}",
        ]
        for row in content["rows"]
    ]


def test_the_bound_of_two_processes_is_that_of_the_result_file():
    content = result_file("two_processes_2cpu")
    cells = {
        key: "{:.2f} [{:.2f}, {:.2f}]".format(*value)
        for key, value in content["median_and_range"].items()
    }
    for sentence in (
        f"for an image, median of {content['n']} rounds [least, most]",
        f"training takes {cells['training_of_1']} in one process and {cells['training_of_2']} in",
        f"decoding takes {cells['workers_of_1']} and {cells['workers_of_2']}.",
        f"bounds the gain from a second process to {cells['bound']} times",
    ):
        assert sentence in PAGE.sentences


def test_the_cost_of_monitors_is_that_of_the_result_file():
    look = result_file("monitor_overhead")["results"]["all"]
    low, high = (f"{100 * (value - 1):.1f}" for value in look["quartiles"])
    sentence = (
        f"takes {100 * (look['relative'] - 1):.0f} % longer (quartiles {low} to {high} %), so at "
        f"the default of one look in 100 steps {100 * (look['relative_every_100'] - 1):.2f} %"
    )
    assert sentence in PAGE.sentences


def test_the_page_of_images_repeats_the_time_of_an_image():
    rows = {row["network"]: row for row in result_file("training_step_avx2")["rows"]}
    parts = rows["CNN, PReLU"]["milliseconds_per_image"]
    seconds = sum(parts[part] for part in ("forward", "backward", "optimizer")) / 1000
    assert f"trains for about {seconds:.1f} s on each image" in Page("docs/images.md").sentences


def test_the_gain_and_the_cost_of_fast_decoding_are_those_of_the_result_file():
    content = result_file("fast_decoding")
    assert f"median of {content['n']} rounds [least, most] ([file]" in INFERENCE.sentences
    imagenet, photos = content["photographs"]
    assert INFERENCE.table("| preparation |") == [
        [name, *("{:.2f} [{:.2f}, {:.2f}]".format(*each["milliseconds"][name]) for each in both)]
        for both in [(imagenet, photos)]
        for name in imagenet["milliseconds"]
    ]
    levels = imagenet["levels"]
    assert photos["levels"]["largest"] <= levels["largest"] == 2
    rows = [row for each in content["networks"] for row in each["exact_and_fast"]]
    assert {row["n"] for row in rows} == {2000} and len(rows) == 6
    changed = max(row["n"] - row["same_first_class"] for row in rows)
    moved = max(abs(row["top1_accuracy"][0] - row["top1_accuracy"][1]) for row in rows)
    for part in (
        f"differ by {levels['mean']:.3f} levels of 255 on average and {levels['largest']} at most; "
        f"{100 * levels['share_above_one']:.5f} % differ by more than one",
        f"at most {changed} get another answer",
        f"accuracies move by at most {100 * moved:.2f} points",
    ):
        assert part in INFERENCE.sentences, part


def test_the_times_of_a_start_are_those_of_the_result_files():
    content = result_file("import_time")
    assert f"median of {content['n']} [least, most] ([file]" in PAGE.sentences
    assert PAGE.table("| process |") == [
        [f"`{name}`", "{:.2f} [{:.2f}, {:.2f}]".format(*values)]
        for name, values in content["median_and_range"].items()
    ]
    first = result_file("first_batch")
    left_out, searched = (
        "{:.2f} [{:.2f}, {:.2f}]".format(*values["cpu_seconds"])
        for values in (first["median_and_range"], first["searched"])
    )
    assert (
        f"it takes {left_out} CPU seconds, and {searched} where the collector searches what was "
        f"imported ([file](../benchmarks/results/first_batch_202611.json), median of {first['n']})"
    ) in PAGE.sentences


def test_a_step_beside_that_of_timm_is_that_of_the_result_files():
    files = [result_file(f"training_step_timm_{each}") for each in ("float32", "bfloat16")]
    assert f"median of {files[0]['n']} rounds [least, most] ([float32]" in PAGE.sentences
    both = [{row["network"]: row for row in content["rows"]} for content in files]
    assert PAGE.table("| beside timm ResNet-50 |") == [
        [name, *("{:.2f} [{:.2f}, {:.2f}]".format(*rows[name]["speed_over_peer"]) for rows in both)]
        for name in list(both[0])[1:]
    ]
    slow, fast = (rows["CNN, PReLU"]["images_per_second"] for rows in both)
    assert f"trains {fast / slow:.2f} times as many images a second" in PAGE.sentences
