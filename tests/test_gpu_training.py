"""Training on GPUs: losses of a CPU, each precision, the same bits again. Run with -m gpu.

Nothing here needs a GPU to be collected. benchmarks/gpu.py runs these tests first; docs/gpu.md says
what each of them is about.
"""

import copy
import json
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.files import file_sha256
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.settings import Augmentation, Optimizer, Preprocessing
from convzoo.training.checkpointing import load_state
from convzoo.training.metrics_log import read_metrics
from convzoo.training.optimization import build_optimizer
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig
from tests.support.clients import run, train

# Warnings of libraries are no errors here: nobody has seen yet which ones a GPU brings.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

# ---- in this process: quick, and so first ------------------------------------------------------
TINY = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_labels": 10}
FAMILIES = {
    "cnn_prelu": lambda: CNN(CNNConfig(**TINY)),
    "cnn_relu": lambda: CNN(CNNConfig(**TINY, use_prelu=False)),
    "qlnet": lambda: QLNet(QLNetConfig(**TINY)),
    "alexnet": lambda: AlexNet(
        AlexNetConfig(
            hidden_sizes=[8, 12, 16, 16, 12],
            classifier_hidden_size=32,
            dropout_rate=0.0,
            num_labels=10,
        )
    ),
}
TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of a loss, relative: rounding of the type, and TF32 in float32.
TOLERANCES = {"no": 0.005, "bf16": 0.03, "fp16": 0.01}


def losses_of(model, device, *, precision="no", compiled=False, channels_last=True, steps=4):
    """Losses of a few steps from the model's weights, of which a copy is trained."""
    torch._dynamo.reset()  # after eight networks PyTorch would compile no more, without an error
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = copy.deepcopy(model).train().to(device, memory_format=layout)
    forward = torch.compile(model) if compiled else model
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 96, 96, generator=generator).to(device, memory_format=layout)
    labels = torch.arange(16, device=device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(
        torch.device(device).type, init_scale=1024.0, enabled=precision == "fp16"
    )
    losses = []
    for _ in range(steps):
        enabled = precision != "no"
        with torch.autocast(torch.device(device).type, TYPES[precision], enabled=enabled):
            logits = forward(images).logits
        loss = F.cross_entropy(logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(autouse=True)
def float32_as_in_training():
    """By TF32, as `prepare_device` has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def families():
    """Each family with its weights and its losses in float32 on a CPU."""
    torch.manual_seed(0)
    models = {name: build() for name, build in FAMILIES.items()}
    return {name: (model, losses_of(model, "cpu")) for name, model in models.items()}


# Compiling takes longest, so float32 and float16 are compiled for one family.
SETTINGS = [(family, precision, False) for family in FAMILIES for precision in TYPES]
SETTINGS += [(family, "bf16", True) for family in FAMILIES]
SETTINGS += [("cnn_prelu", precision, True) for precision in ("no", "fp16")]


@pytest.mark.parametrize(("family", "precision", "compiled"), SETTINGS)
def test_each_family_has_the_losses_of_a_cpu(family, precision, *, compiled, families):
    model, expected = families[family]
    losses = losses_of(model, "cuda", precision=precision, compiled=compiled)
    assert losses == pytest.approx(expected, rel=TOLERANCES[precision])
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_layout_changes_no_loss(family, families):
    model, expected = families[family]
    assert losses_of(model, "cuda", channels_last=False) == pytest.approx(expected, rel=0.005)


def test_outputs_stay_in_channels_last_memory():
    """Else each layer would copy its input."""
    model = CNN(CNNConfig(**TINY)).cuda().to(memory_format=torch.channels_last)
    maps = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.PReLU):
            module.register_forward_hook(lambda _, inputs, output: maps.append(output))
    model(torch.randn(4, 3, 96, 96, device="cuda").to(memory_format=torch.channels_last))
    assert maps and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


def test_a_batch_is_in_pinned_memory_and_its_copy_does_not_block(colour_data):
    batches = train_batches(stream_of(colour_data), 2, pin=True)
    batch = next(batches)
    assert batch["pixels"].is_pinned() and batch["labels"].is_pinned()
    expected = next(train_batches(stream_of(colour_data), 0))
    assert torch.equal(batch["pixels"], expected["pixels"])
    batch["pixels"].to("cuda")  # so that there is memory for it
    torch.cuda._sleep(200_000_000)  # a tenth of a second of work for the GPU
    start = time.perf_counter()
    copied = batch["pixels"].to("cuda", non_blocking=True)
    assert time.perf_counter() - start < 0.02
    torch.cuda.synchronize()
    assert torch.equal(copied.cpu(), batch["pixels"])
    batches.close()


def stream_of(folder):
    split = open_split(str(folder), "train")
    order = DataOrder(
        split.group_rows, split.group_bytes, global_batch_size=12, memory_bytes=2**20, seed=0
    )
    transform = TrainTransform(Augmentation(), Preprocessing(resize=18, crop=16))
    return TrainStream(split, order, transform=transform, share=Share(), steps=range(4))


SYNCHRONISING = [
    *("train.mixed_precision=bf16", "train.epochs=20", "train.log_every_steps=1000"),
    *("train.checkpoint_every_epochs=0", "data.num_workers=2"),
    *("train.ema_decay=0.9", "augmentation.erasing=0.5", "augmentation.mixup_alpha=0.2"),
    *("augmentation.cutmix_alpha=1.0", "optimizer.slope_limits=[0, 1]", "data.eval_split="),
]


def test_a_step_makes_the_cpu_wait_nowhere(tiny_recipe, tmp_path):
    """PyTorch itself raises at whatever would wait for the GPU, between two lines of the log."""
    code = """
import sys, torch, train_accelerate
from convzoo.training.learner import Learner

real, steps = Learner.step, []

def step(self):
    norm = real(self)
    steps.append(1)
    torch.cuda.set_sync_debug_mode("error" if 5 <= len(steps) < 60 else "default")
    return norm

Learner.step = step
train_accelerate.main(sys.argv[1:])
assert len(steps) > 60
"""
    overrides = [*SYNCHRONISING, f"run.output_dir={tmp_path}"]
    run("-c", code, tiny_recipe, *overrides, ACCELERATE_USE_CPU="false")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizers_one_kernel_takes_the_step_of_a_cpu(name):
    torch.manual_seed(0)
    model = CNN(CNNConfig(**TINY))
    theirs = copy.deepcopy(model).cuda()
    for module, fused in ((model, None), (theirs, True)):
        optimizer = build_optimizer(module, Optimizer(name=name, weight_decay=0.01), fused=fused)
        for step in range(3):
            for number, parameter in enumerate(module.parameters()):
                generator = torch.Generator().manual_seed(1000 * step + number)
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = gradient.to(parameter.device)
            optimizer.step()
    for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-6)


def test_the_scale_of_fp16_is_in_the_checkpoint(tiny_recipe, tmp_path):
    train_on_gpu(tiny_recipe, tmp_path, "train.mixed_precision=fp16", "train.keep_checkpoints=9")
    saved = load_state(max((tmp_path / "tiny/checkpoints").glob("step_*")))["scaler"]
    scaler = torch.amp.GradScaler("cuda")
    scaler.load_state_dict(saved)
    assert saved["scale"] > 0 and scaler.get_scale() == saved["scale"]
    assert saved["_growth_tracker"] >= 0


# ---- whole runs of train_accelerate.py --------------------------------------------------------
WEIGHTS = "tiny/model/model.safetensors"


def train_on_gpu(recipe, output, *overrides, processes=1):
    arguments = (recipe, f"run.output_dir={output}", *overrides)
    train(*arguments, processes=processes, fresh=True, ACCELERATE_USE_CPU="false")
    results = json.loads((output / "tiny/model/train_results.json").read_text())
    assert results["environment"]["accelerator"] and results["num_processes"] == processes
    lines = read_metrics(output / "tiny/metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def cpu_losses(tiny_recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("cpu")
    train(tiny_recipe, f"run.output_dir={output}", "model.drop_path_rate=0.0")
    return [line["loss"] for line in read_metrics(output / "tiny/metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize(
    ("precision", "compiled", "tolerance"),
    [
        ("no", False, 0.01),
        ("bf16", False, 0.05),
        ("fp16", False, 0.02),
        ("no", True, 0.01),
        ("bf16", True, 0.05),
    ],
)
def test_the_first_losses_are_those_of_a_cpu(
    precision, compiled, *, tolerance, cpu_losses, tiny_recipe, tmp_path
):
    overrides = (f"train.mixed_precision={precision}", f"train.compile={str(compiled).lower()}")
    losses = train_on_gpu(tiny_recipe, tmp_path, "model.drop_path_rate=0.0", *overrides)
    assert len(losses) == len(cpu_losses)
    assert losses[:5] == pytest.approx(cpu_losses[:5], rel=tolerance)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_deterministic_run_is_resumed_to_the_very_same_weights(precision, tiny_recipe, tmp_path):
    overrides = ("train.deterministic=true", f"train.mixed_precision={precision}")
    overrides += ("train.keep_checkpoints=9", "train.ema_decay=0.9", "data.num_workers=2")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = train_on_gpu(tiny_recipe, whole, *overrides)
    first = min((whole / "tiny/checkpoints").glob("step_*"))
    state = load_state(first)
    assert bool(state["scaler"]) == (precision == "fp16")
    shutil.copytree(first, resumed / "tiny/checkpoints" / first.name)
    losses = train_on_gpu(tiny_recipe, resumed, *overrides)
    assert losses == expected[state["step"] :]
    assert file_sha256(resumed / WEIGHTS) == file_sha256(whole / WEIGHTS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("statistics", ["average", "sync"])
def test_two_gpus_train(statistics, tiny_recipe, tmp_path):
    """With synchronised batch norm as one does; with averaged statistics about as well."""
    overrides = ("model.drop_path_rate=0.0", f"train.batch_norm_statistics={statistics}")
    one, two = tmp_path / "one", tmp_path / "two"
    losses = [
        train_on_gpu(tiny_recipe, output, *overrides, processes=processes)
        for output, processes in ((one, 1), (two, 2))
    ]
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=0.01 if statistics == "sync" else 0.5)
    assert load_file(one / WEIGHTS).keys() == load_file(two / WEIGHTS).keys()
