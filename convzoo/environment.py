"""Describe the machine and the software that made a measurement."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

_PACKAGES = (
    "convzoo",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "safetensors",
    "pillow",
    "simplejpeg",
    "numpy",
)


def describe_environment(*more_packages: str) -> dict[str, Any]:
    """Name Python, processor, accelerator, package versions and commit, for result files."""
    versions: dict[str, str | None] = {}
    for package in (*_PACKAGES, *more_packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
        "commit": _commit(),
    }


class Provenance(TypedDict):
    """What repeats a result, when it was made, and on which machine."""

    command: str
    date: str
    environment: dict[str, Any]


def provenance(command: str) -> Provenance:
    """Say how, when and where a result was made: the part that all result files have.

    Args:
        command: what a person types to repeat it.
    """
    return {"command": command, "date": now(), "environment": describe_environment()}


def now() -> str:
    """Return the time, in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_line(program: str) -> str:
    """Write `program` with the arguments of this process, as one would type it."""
    return f"{program} {shlex.join(sys.argv[1:])}".strip()


def _commit() -> str | None:
    """Name the commit of this checkout, "-dirty" where files differ; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
