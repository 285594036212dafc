"""docs/log.md tells the truth: its figures are those of the result files."""

from tests.support.documents import Page, result_file

PAGE = Page("docs/log.md")


def percent(fraction):
    return f"{100 * fraction:.2f}"


def test_cifar10_fell_short_of_its_aim():
    content = result_file("cifar10_cnn_prelu_growing_cpu")
    (run,) = content["runs"]
    assert f"reach {percent(content['top1_accuracy_mean'])} % with one seed" in PAGE.sentences
    assert f"in {run['cpu_seconds'] / 60:.0f} CPU minutes" in PAGE.sentences


def test_prelu_and_relu_are_as_far_apart_as_their_result_files():
    said = [
        f"{percent(content['top1_accuracy_mean'])} \u00b1 "
        f"{percent(content['top1_accuracy_standard_deviation'])} %"
        for content in map(result_file, ("cifar10_cnn_prelu_cpu", "cifar10_cnn_relu_cpu"))
    ]
    assert f"reaches {said[0]} with PReLU and {said[1]} with ReLU (n = 3 seeds" in PAGE.sentences


def test_compiling_made_our_steps_no_faster():
    speed = {
        row["network"]: f"{row['speed_over_peer'][0]:.2f}"
        for row in result_file("training_step_avx2")["rows"]
    }
    for part in (
        f"faster ({speed['Transformers ResNet-50, compiled']} times)",
        f"PReLU {speed['CNN, PReLU, compiled']} instead of {speed['CNN, PReLU']} times that peer",
        f"ReLU {speed['CNN, ReLU, compiled']} instead of {speed['CNN, ReLU']}",
        f"QLNet {speed['QLNet, compiled']} instead of {speed['QLNet']}",
        f"the CNN {speed['CNN, PReLU of PyTorch']} instead of {speed['CNN, PReLU']} times",
    ):
        assert part in PAGE.sentences, part


def test_four_processes_are_slower_than_two_on_two_cores():
    rates = {
        row["processes"]: f"{row['images_per_second'][0]:,.0f}"
        for row in result_file("processes_2cpu")["rows"]
    }
    sentence = f"They train {rates[4]} images per second; two processes train {rates[2]}"
    assert sentence in PAGE.sentences


def test_mixing_costs_memory():
    share = {
        row["order"]: f"{100 * row['share_of_perfect']:.1f} %"
        for row in result_file("shuffle_quality")["rows"]
    }
    (buffer,) = (name for name in share if "(506 MB)" in name)
    for part in (
        f"With 512 MB a batch reaches {share['ours, 512 MB']} of the entropy",
        f"with 8192 MB {share['ours, 8192 MB']}",
        f"buffer gives {share[buffer]} of perfect entropy on class-sorted files, where our order "
        f"gives {share['ours, 512 MB']}",
    ):
        assert part in PAGE.sentences, part


def test_many_readers_open_row_groups_often():
    most = [
        max(row["later_epoch"] for row in plan["rows"] if row["processes"] == 64)
        for plan in result_file("read_amplification")["plans"]
    ]
    for part in (f"every row group {most[0]:.2f} times", f"and {most[1]:.2f} times with 2048 MB"):
        assert part in PAGE.sentences, part


def test_other_libraries_transforms_cost_the_ratios_that_were_measured():
    ratios = {
        (run["data"], kind, name): row["ratio_median"]
        for run in result_file("input_pipeline_2cpu")["runs"]
        for kind in ("crop", "crop_policy_erasing", "streamed_crop")
        for name, row in run[kind].items()
        if name.startswith(("Pillow + torchvision", "torchvision", "timm", "datasets"))
        and "default" not in name  # its colour jitter is more work
    }
    ours = [value for (_, kind, _), value in ratios.items() if kind != "streamed_crop"]
    assert f"at {min(ours):.1f} to {max(ours):.1f} times our CPU time" in PAGE.sentences
    (streamed,) = (
        value
        for (data, kind, _), value in ratios.items()
        if (data, kind) == ("imagenet-sample", "streamed_crop")
    )
    assert f"costs {streamed:.2f} times our CPU time on ImageNet photographs" in PAGE.sentences
