"""Names the machine, and measures what bounds everything else: copies and matrix products."""

import shutil
import statistics
import subprocess

import torch

from benchmarks.gpu_steps.record import Record, StepArguments, step_arguments
from benchmarks.gpu_steps.timing import repeated

SMI_FIELDS = (
    *("name", "driver_version", "memory.total", "power.limit", "temperature.gpu"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "pcie.link.gen.current"),
    *("pcie.link.width.current", "utilization.gpu", "mig.mode.current"),
)


def main(args: StepArguments) -> None:
    """Measure and write."""
    if not (torch.cuda.is_available() or args.dry_run):
        raise SystemExit(
            "error: torch sees no GPU; --dry-run runs all steps in tiny sizes on a CPU"
        )
    device = torch.device("cpu" if args.dry_run else "cuda")
    record = Record(args.output, "the machine and its bounds", seconds=args.seconds)
    megabytes = 1 if args.dry_run else 2048
    record.measure("machine", lambda: machine(device), seconds=0)
    record.measure("copy on the device", lambda: device_copy(device, megabytes), seconds=0)
    record.measure("copy to the device", lambda: host_copy(device, megabytes // 8 or 1), seconds=0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        side = 64 if args.dry_run else 8192
        name = f"matrix product {str(dtype).removeprefix('torch.')}"
        record.measure(name, lambda d=dtype, n=side: product(device, n, dtype=d), seconds=0)
    record.finish()


def machine(device: torch.device) -> dict[str, object]:
    """Name hardware and software."""
    found: dict[str, object] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
        }
    if smi := shutil.which("nvidia-smi"):
        command = [smi, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        values = done.stdout.strip().splitlines()[:1]
        if not done.returncode and values:
            found["nvidia_smi"] = dict(zip(SMI_FIELDS, values[0].split(", "), strict=False))
    return found


def device_copy(device: torch.device, megabytes: int) -> dict[str, object]:
    """Measure a copy within the device's memory: bytes read and bytes written in a second."""
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = repeated(lambda: target.copy_(source), device, count=10)
    return {"terabytes_per_second": rate(2 * source.numel(), seconds), "megabytes": megabytes}


def host_copy(device: torch.device, megabytes: int) -> dict[str, object]:
    """Measure copies from pinned and from ordinary memory."""
    rates = {}
    for pinned in (True, False):
        source = torch.ones(megabytes * 2**20, dtype=torch.uint8)
        source = source.pin_memory() if pinned and device.type == "cuda" else source
        target = torch.empty_like(source, device=device)
        seconds = repeated(
            lambda t=target, s=source, p=pinned: t.copy_(s, non_blocking=p), device, count=5
        )
        rates["pinned" if pinned else "ordinary"] = rate(source.numel(), seconds)
    return {"terabytes_per_second": rates, "megabytes": megabytes}


def product(device: torch.device, side: int, *, dtype: torch.dtype) -> dict[str, object]:
    """Measure a square matrix product; float32 by TF32, as training has it."""
    torch.set_float32_matmul_precision("high")
    one = torch.randn(side, side, device=device).to(dtype)
    seconds = repeated(lambda: one @ one, device, count=5)
    teraflops = 2 * side**3 / statistics.median(seconds) / 1e12
    return {"teraflops": round(teraflops, 3), "side": side}


def rate(num_bytes: int, seconds: list[float]) -> float:
    """Return terabytes per second, the median."""
    return round(num_bytes / statistics.median(seconds) / 1e12, 5)


if __name__ == "__main__":
    main(step_arguments())
