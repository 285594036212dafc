"""What this project does on a GPU, by one command.

    python benchmarks/gpu.py [--minutes 8] [--data CIFAR_FOLDER] [--results FOLDER]
    python benchmarks/gpu.py --dry-run          # the same code on a CPU, in tiny sizes

The steps run in order of worth, each in a process of its own, so that a crash or a hang costs one
step only. Each has a share of the minutes; what one leaves goes to the next ones. A step writes
FOLDER/<step>.json after each number and FOLDER/<step>.log; FOLDER/summary.json is the index, with
the ratios that the goals are about. Started again, the command does what is missing: a finished
step is skipped, an unfinished one goes on after its last number. --again starts anew.

CIFAR_FOLDER holds CIFAR-10 as parquet, as on the Hub; without it nothing is trained on it. With
--wheels all wheels of a folder are installed beside the results first, without a network.
docs/gpu.md says how to prepare a machine, and what each number means.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from convzoo.files import write_json  # noqa: E402

PATIENCE_SECONDS = 5.0  # a step that was told its time is given this much more
RESTARTS = 8  # of a step that crashes, as long as each time it came further
COMPLETE, OUT_OF_TIME, FAILED = "complete", "out of time", "failed"


@dataclass(frozen=True)
class Step:
    """A part of the benchmark: a module of benchmarks/gpu_steps.

    Attributes:
        name: of the module.
        share: of the time that is left, against the steps after it.
        least_seconds: it gets so much, if as much is left: libraries are loaded from a cold disk.
    """

    name: str
    share: float
    least_seconds: float = 0.0


STEPS = (
    Step("environment", 0.04, least_seconds=90.0),
    Step("tests", 0.2),
    Step("networks", 0.36),
    Step("input", 0.22),  # compiles, too
    Step("cifar10", 0.18),
)


def main(argv: list[str] | None = None) -> int:
    """Run the steps; returns 0 unless one failed."""
    args = parse_args(argv)
    # `timeout` and job managers: what a step started must not keep the GPU.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = Path(args.results).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = environment_of_steps(folder, dry_run=args.dry_run)
    if args.wheels:
        install_wheels(Path(args.wheels), folder / "packages")
    if args.again:
        for step in STEPS:
            (folder / f"{step.name}.json").unlink(missing_ok=True)
    end = time.monotonic() + 60 * args.minutes
    chosen = [step for step in STEPS if not args.steps or step.name in args.steps]
    done: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(chosen):
        shares = sum(each.share for each in chosen[number:])
        left = max(0.0, end - time.monotonic())
        seconds = min(left, max(left * step.share / shares, step.least_seconds))
        done[step.name] = run_step(
            step, folder, seconds=seconds, options=step_options(args), environment=environment
        )
        print(f"{step.name}: {done[step.name]}", flush=True)
        write_json(folder / "summary.json", summary(folder, done, args))
        if step.name == "environment" and done[step.name]["state"] == FAILED:
            print((folder / "environment.log").read_text()[-2000:], file=sys.stderr)
            break  # the others would fail, too
    print(f"results: {folder}")
    return int(any(each["state"] == FAILED for each in done.values()))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    parser.add_argument("--data", default="", help="a folder with CIFAR-10 as parquet")
    parser.add_argument("--results", default=str(ROOT / "runs" / "gpu"), help="a folder")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument("--wheels", default="", help="a folder of wheels to install first")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, in tiny sizes")
    return parser.parse_args(argv)


def step_options(args: argparse.Namespace) -> list[str]:
    """Return what every step is told."""
    data = ["--data", str(Path(args.data).resolve())] if args.data else []
    return [*data, *(["--dry-run"] if args.dry_run else [])]


def environment_of_steps(folder: Path, *, dry_run: bool) -> dict[str, str]:
    """Return the environment of the steps: ours first on the path, no network, one cache."""
    path = [str(ROOT), str(folder / "packages"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))
    if dry_run:
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def install_wheels(wheels: Path, target: Path) -> None:
    """Install all wheels of a folder into another folder, without a network.

    Without dependencies: torch is the machine's own, and pip would miss it.
    """
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"error: --wheels must be a folder with wheels; {wheels} has none")
    if (target / "installed.json").exists():
        if json.loads((target / "installed.json").read_text()) == files:
            return
        shutil.rmtree(target)
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)
    write_json(target / "installed.json", files)


def run_step(
    step: Step, folder: Path, *, seconds: float, options: list[str], environment: dict[str, str]
) -> dict[str, Any]:
    """Run a step for so many seconds at most; returns what became of it."""
    try_again(folder, step.name)
    start = time.monotonic()
    restarts, rows = 0, -1
    status: int | None = 0
    with (folder / f"{step.name}.log").open("ab") as log:
        while True:
            content = read(folder, step.name)
            if content.get("complete"):
                state = COMPLETE
                break
            left = seconds - (time.monotonic() - start)
            came_further = len(content.get("rows", ())) > rows
            if left <= 0 or status is None:
                state = OUT_OF_TIME
                break
            if status and (not came_further or restarts == RESTARTS):
                state = FAILED
                break
            restarts, rows = restarts + bool(status), len(content.get("rows", ()))
            command = [sys.executable, "-m", f"benchmarks.gpu_steps.{step.name}"]
            command += ["--output", str(folder / f"{step.name}.json"), "--seconds", f"{left:.0f}"]
            status = run_group([*command, *options], left, log=log, environment=environment)
            if not status and not read(folder, step.name).get("complete"):
                status = None  # it stopped by itself, in time
    return {
        "state": state,
        "rows": len(read(folder, step.name).get("rows", ())),
        "seconds": round(time.monotonic() - start, 1),
        "limit_seconds": round(seconds, 1),
        "restarts": restarts,
        "status": status,
    }


def run_group(
    command: list[str], seconds: float, *, log: Any, environment: dict[str, str]
) -> int | None:
    """Run a command and all that it starts; returns its status, None if its time was over."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        return process.wait(seconds + PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also what a crashed step left behind, and on Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read(folder: Path, name: str) -> dict[str, Any]:
    """Read a step's results; {} without any."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def try_again(folder: Path, name: str) -> None:
    """Let the case that ran when an earlier command ended be tried once more.

    Its time was over, or the machine was taken away; the second time it is recorded as failed.
    """
    content = read(folder, name)
    case, stopped = content.get("running"), content.get("stopped", [])
    if case and case not in stopped:
        write_json(folder / f"{name}.json", content | {"running": "", "stopped": [*stopped, case]})


def summary(
    folder: Path, done: dict[str, dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """Collect the index: what became of each step, and the ratios that the goals are about."""
    rows = {
        row["case"]: row
        for row in read(folder, "networks").get("rows", ())
        if "images_per_second" in row
    }
    tests = [row.get("outcome") for row in read(folder, "tests").get("rows", ())]
    return {
        "what": "index of benchmarks/gpu.py; docs/gpu.md says what the numbers mean",
        "dry_run": args.dry_run,
        "minutes": args.minutes,
        "steps": done,
        "machine": (read(folder, "environment").get("rows") or [{}])[0],
        "tests": {outcome: tests.count(outcome) for outcome in sorted(set(filter(None, tests)))},
        "prelu_over_relu": ratios(rows, "cnn_prelu", "cnn_relu"),
        "cnn_relu_over_timm_resnet50": ratios(rows, "cnn_relu", "timm_resnet50"),
        "cnn_prelu_over_timm_resnet50": ratios(rows, "cnn_prelu", "timm_resnet50"),
        "alexnet_over_torchvision_alexnet": ratios(rows, "alexnet", "torchvision_alexnet"),
        "input": read(folder, "input").get("rows", []),
        "cifar10": cifar10_means(read(folder, "cifar10").get("rows", [])),
        "errors": [
            {"step": step.name, "case": row["case"], "error": row["error"]}
            for step in STEPS
            for row in read(folder, step.name).get("rows", ())
            if "error" in row
        ],
    }


def ratios(rows: dict[str, dict[str, Any]], one: str, other: str) -> dict[str, dict[str, float]]:
    """Divide time and memory of a network by another's, under each setting that both have."""
    found = {}
    for case, row in rows.items():
        network, _, setting = case.partition(" ")
        peer = rows.get(f"{other} {setting}")
        if network != one or peer is None:
            continue
        found[setting] = {"time": row["milliseconds"] / peer["milliseconds"]}
        for key in ("peak_memory_gb", "activation_gb"):
            if row.get(key) and peer.get(key):
                found[setting][key] = row[key] / peer[key]
        found[setting] = {key: round(value, 4) for key, value in found[setting].items()}
    return found


def cifar10_means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the seeds of each recipe that were trained to their end."""
    rows = [row for row in rows if not row.get("out_of_time")]
    found = {}
    for recipe in dict.fromkeys(row["recipe"] for row in rows if "top1_accuracy" in row):
        seeds = [row for row in rows if row.get("recipe") == recipe and "top1_accuracy" in row]
        accuracies = [row["top1_accuracy"] for row in seeds]
        found[recipe] = {
            "n": len(seeds),
            "top1_accuracy_mean": round(statistics.mean(accuracies), 4),
            "top1_accuracies": accuracies,
            "seconds": [row["seconds"] for row in seeds],
        }
    return found


if __name__ == "__main__":
    sys.exit(main())
