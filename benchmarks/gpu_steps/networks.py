"""Times training steps and predictions of our networks and of others', on synthetic images.

All take the same step: channels last, autocast, cross entropy in float32, SGD with momentum in one
kernel, cuDNN's fastest algorithms. Ours leave out the biases that batch norms cancel, as in
training.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_steps.record import Record, StepArguments, step_arguments
from benchmarks.gpu_steps.timing import bytes_of_a_step, flops_of_a_step, spread, timed
from convzoo.training.devices import prepare_device
from convzoo.training.finetuning import freeze_cancelled_biases
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, ConvZooModel, QLNet, QLNetConfig

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OURS = ("cnn_prelu", "cnn_relu", "qlnet", "alexnet")
PEERS = ("timm_resnet50", "transformers_resnet50", "torchvision_alexnet")
MAIN = ("cnn_prelu", "cnn_relu", "timm_resnet50")
SECONDS_OF_A_REPEAT = 0.4
# What a case may take, seconds, on a fresh cache of the compiler; it is not begun with less left.
SECONDS = {"eager": 8.0, "default": 45.0, "reduce-overhead": 45.0, "max-autotune": 120.0}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        network: a name of OURS or PEERS.
        training: a training step, or predictions.
        precision: a key of TYPES, of autocast.
        mode: "eager" or a mode of torch.compile; "reduce-overhead" replays CUDA graphs.
        batch: number of images.
    """

    network: str
    training: bool = True
    precision: str = "bf16"
    mode: str = "eager"
    batch: int = 256

    @property
    def name(self) -> str:
        """The case in words; what follows the network is the setting."""
        kind = "training" if self.training else "prediction"
        return f"{self.network} {kind} {self.precision} {self.mode} batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is.

    Attributes:
        pixels: side of the images.
        tiny: small networks, on a CPU, and one repeat.
    """

    pixels: int = 224
    tiny: bool = False


def cases(*, tiny: bool) -> list[Case]:
    """Return all cases in order of worth."""
    return _tiny_cases() if tiny else _cases()


def _cases() -> list[Case]:
    rest = ("qlnet", "alexnet", "torchvision_alexnet", "transformers_resnet50")
    families = (*MAIN, "qlnet", "alexnet")
    return [
        *(Case(network=network) for network in MAIN),
        *(Case(network=network, mode="default") for network in MAIN),
        *(Case(network=network) for network in rest),
        *(Case(network=network, mode="reduce-overhead") for network in MAIN),
        *(Case(network=n, precision="fp16") for n in (*families, "torchvision_alexnet")),
        *(Case(network=n, training=False, batch=b) for b in (1, 32, 256) for n in families),
        *(Case(network=network, mode="default") for network in rest),
        *(
            Case(network=network, training=False, mode="reduce-overhead", batch=batch)
            for batch in (1, 256, 32)
            for network in families
        ),
        *(Case(network=n, mode="default", precision="fp16") for n in MAIN),
        *(Case(network=n, precision="fp32") for n in MAIN),
        *(Case(network=network, mode="max-autotune") for network in MAIN),
    ]


def _tiny_cases() -> list[Case]:
    return [
        *(Case(network=network, batch=2) for network in (*OURS, *PEERS)),
        Case(network="cnn_prelu", mode="default", batch=2),
        Case(network="cnn_prelu", mode="reduce-overhead", precision="fp32", batch=2),
        Case(network="cnn_prelu", training=False, batch=1),
        Case(network="cnn_prelu", training=False, mode="reduce-overhead", batch=1),
    ]


def main(args: StepArguments) -> None:
    """Measure every case that there is time for."""
    sizes = Sizes(pixels=64, tiny=True) if args.dry_run else Sizes()
    device = torch.device("cpu" if args.dry_run else "cuda")
    prepare_device(device, "no")
    record = Record(
        args.output,
        f"training steps and predictions, synthetic images of {sizes.pixels} pixels",
        seconds=args.seconds,
    )
    bandwidth = copy_bandwidth(args)
    for case in cases(tiny=sizes.tiny):
        seconds = 0.0 if sizes.tiny else SECONDS[case.mode]
        if not record.measure(
            case.name,
            lambda c=case: measure(c, sizes, device=device, bandwidth=bandwidth),
            seconds=seconds,
        ):
            return
    record.finish()


def copy_bandwidth(args: StepArguments) -> float | None:
    """Read the device's copy bandwidth from the step `environment`, bytes per second."""
    path = args.output.with_name("environment.json")
    if not path.is_file():
        return None
    rows = {row["case"]: row for row in json.loads(path.read_text())["rows"]}
    rate = rows.get("copy on the device", {}).get("terabytes_per_second")
    return rate * 1e12 if rate else None


def build(network: str, *, tiny: bool) -> nn.Module:
    """Build a network with new weights.

    Raises:
        ImportError: if it is of a library that is not installed.
    """
    if network.startswith("cnn"):
        small = {"embedding_size": 8, "hidden_sizes": [16, 16], "depths": [1, 1]} if tiny else {}
        return CNN(CNNConfig(use_prelu=network == "cnn_prelu", **small))
    if network == "qlnet":
        small = {"embedding_size": 8, "hidden_sizes": [16, 16], "depths": [1, 1]} if tiny else {}
        return QLNet(QLNetConfig(**small))
    if network == "alexnet":
        return AlexNet(AlexNetConfig(**({"classifier_hidden_size": 16} if tiny else {})))
    if network == "transformers_resnet50":
        from transformers import ResNetConfig, ResNetForImageClassification

        small = {"embedding_size": 8, "hidden_sizes": [16, 16], "depths": [1, 1]} if tiny else {}
        return ResNetForImageClassification(ResNetConfig(num_labels=1000, **small))  # type: ignore[call-arg]
    if network == "timm_resnet50":
        import timm

        model: nn.Module = timm.create_model("resnet18" if tiny else "resnet50")
        return model
    import torchvision

    alexnet: nn.Module = torchvision.models.alexnet()
    return alexnet


def measure(
    case: Case, sizes: Sizes, *, device: torch.device, bandwidth: float | None
) -> dict[str, Any]:
    """Measure one case; its memory is free again afterwards."""
    # Names of compiled code are not shared between cases; kernels on the disk are.
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    try:
        work = Work(case, sizes, device)
        return work.row(bandwidth) | library_version(case.network)
    finally:
        work = None
        gc.collect()
        if device.type == "cuda":
            with suppress(RuntimeError):  # after an error of CUDA
                torch.cuda.empty_cache()


def library_version(network: str) -> dict[str, str]:
    """Name the version of the library that a peer is of."""
    library = network.split("_")[0]
    return {library: version(library)} if network in PEERS else {}


class Work:
    """One network at one setting: calling `run` takes a step or predicts."""

    def __init__(self, case: Case, sizes: Sizes, device: torch.device):
        self.case, self.sizes, self.device = case, sizes, device
        torch.manual_seed(0)
        self.model = build(case.network, tiny=sizes.tiny)
        if isinstance(self.model, ConvZooModel) and case.training:
            freeze_cancelled_biases(self.model)
        self.model.train(case.training).to(device, memory_format=torch.channels_last)
        shape = (case.batch, 3, sizes.pixels, sizes.pixels)
        self.images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
        self.labels = torch.arange(case.batch, device=device) % 10
        trained = [value for value in self.model.parameters() if value.requires_grad]
        on_gpu = device.type == "cuda"
        # One kernel but with loss scaling, as in training: see takes_fused_step.
        fused = True if on_gpu and case.precision != "fp16" else None
        self.optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, fused=fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=case.precision == "fp16" and on_gpu)
        self.forward: Callable[[Tensor], Any] = self.model
        if case.mode != "eager":
            mode = None if case.mode == "default" else case.mode
            backend = {"backend": "eager"} if sizes.tiny else {"mode": mode}
            self.forward = torch.compile(self.model, dynamic=False, **backend)
        self.run = self.train if case.training else self.predict

    def logits(self) -> Tensor:
        """Run the network under autocast."""
        dtype = TYPES[self.case.precision]
        if self.case.mode in ("reduce-overhead", "max-autotune"):
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            output = self.forward(self.images)
        logits: Tensor = getattr(output, "logits", output)
        return logits

    def loss(self) -> Tensor:
        """Forward pass of training."""
        return F.cross_entropy(self.logits().float(), self.labels)

    def train(self) -> None:
        """Forward, backward and optimizer."""
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def predict(self) -> None:
        """Forward pass of evaluation."""
        self.logits()

    def row(self, bandwidth: float | None) -> dict[str, Any]:
        """Warm up, compile, and measure."""
        start = time.perf_counter()
        for _ in range(1 if self.sizes.tiny else 5):  # CUDA graphs are recorded by the third
            self.run()
        once = timed(self.run, self.device, count=1)
        found: dict[str, Any] = {"warm_up_seconds": round(time.perf_counter() - start, 1)}
        found |= self.activation_memory() if self.case.training else {}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        count = max(1, min(500, round(SECONDS_OF_A_REPEAT / once)))
        repeats = 1 if self.sizes.tiny else 5
        seconds = [timed(self.run, self.device, count=count) for _ in range(repeats)]
        found |= spread(self.case.batch, seconds)
        if self.device.type == "cuda":
            found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
            found["reserved_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 3)
        if self.case.mode in ("reduce-overhead", "max-autotune"):
            skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
            found["cuda_graphs_skipped"] = skipped
        try:
            return found | self.bounds(statistics.median(seconds), bandwidth)
        except Exception as error:  # the times are not lost with it
            return found | {"bounds_error": f"{type(error).__name__}: {error}"[:500]}

    def activation_memory(self) -> dict[str, float]:
        """Measure what the forward pass keeps for the backward pass."""
        if self.device.type != "cuda":
            self.loss().backward()
            self.optimizer.zero_grad()
            return {}
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        loss = self.loss()
        kept = torch.cuda.memory_allocated() - before
        loss.backward()
        self.optimizer.zero_grad()
        return {"activation_gb": round(kept / 1e9, 3)}

    def bounds(self, seconds: float, bandwidth: float | None) -> dict[str, float]:
        """Compare the time with what the bytes and the arithmetic need at least."""
        with torch.device("meta"):
            model = build(self.case.network, tiny=self.sizes.tiny)
        pixels, batch, training = self.sizes.pixels, self.case.batch, self.case.training
        width = TYPES[self.case.precision].itemsize
        moved = bytes_of_a_step(model, pixels, batch=batch, width=width, training=training)
        flops = flops_of_a_step(model, pixels, batch=batch, training=training)
        found = {
            "floor_gb": round(moved / 1e9, 3),
            "teraflops": round(flops / seconds / 1e12, 3),
        }
        if bandwidth:
            found["floor_milliseconds"] = round(1000 * moved / bandwidth, 4)
            found["share_of_floor"] = round(moved / bandwidth / seconds, 4)
        return found


if __name__ == "__main__":
    main(step_arguments())
