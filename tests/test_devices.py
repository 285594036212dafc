import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convzoo.training.devices import (
    advise_precision,
    check_compiler,
    check_deterministic,
    has_fast_bf16,
    prepare_device,
)
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig

CPU = torch.device("cpu")
CODE = """
import os, torch
from convzoo.training.devices import prepare_device

prepare_device(torch.device("cuda"), "no", deterministic={deterministic})
print(torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
      "CUBLAS_WORKSPACE_CONFIG" in os.environ, torch.get_float32_matmul_precision())
"""


@pytest.mark.parametrize(
    ("deterministic", "expected"),
    [(False, "True False False high"), (True, "False True True high")],
)
def test_gpus_are_fast_or_deterministic(deterministic, expected):
    code = CODE.format(deterministic=deterministic)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == expected


def test_fp16_on_cpus_is_refused():
    with pytest.raises(ValueError, match="train.mixed_precision must be 'no' or 'bf16' on CPUs"):
        prepare_device(CPU, "fp16")


def test_a_model_without_deterministic_gradients_on_gpus_is_named():
    gpu = torch.device("cuda")
    with torch.device("meta"):
        alexnet, cnn = AlexNet(AlexNetConfig()), CNN(CNNConfig())
    with pytest.raises(ValueError, match="must be false for AlexNet on a GPU"):
        check_deterministic(alexnet, gpu)
    check_deterministic(alexnet, CPU)
    check_deterministic(cnn, gpu)


def test_paths_that_the_compiler_would_tear_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.__file__", "/opt/torch/__init__.py")
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: "/usr/lib")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/cache")
    check_compiler(CPU)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/a cache")
    with pytest.raises(ValueError, match="got '/tmp/a cache'. .* or set TORCHINDUCTOR_CACHE_DIR"):
        check_compiler(CPU)
    monkeypatch.setattr("torch.__file__", "/my models/torch/__init__.py")
    with pytest.raises(ValueError, match="got '/my models/torch'. Leave it out, or start Python"):
        check_compiler(CPU)
    check_compiler(torch.device("cuda"))


def test_emulated_bf16_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        prepare_device(CPU, "no")
        assert not caplog.messages
        prepare_device(CPU, "bf16")
    assert len(caplog.messages) == (not has_fast_bf16(CPU))
    assert all("emulated on this CPU" in message for message in caplog.messages)


def test_bf16_is_advised_where_the_processor_multiplies_in_it(monkeypatch):
    large, small = 4_000_000_000, 5_000_000
    for instructions in (True, False):
        monkeypatch.setattr(
            "torch.cpu._is_avx512_bf16_supported", lambda instructions=instructions: instructions
        )
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        assert ("this CPU multiplies" in advise_precision(CPU, "no", large)) == instructions
        any_network = advise_precision(CPU, "no", None)
        assert (
            "networks of 20 million multiply-adds or more faster" in any_network
        ) == instructions
        assert advise_precision(CPU, "bf16", large) == advise_precision(CPU, "no", small) == ""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="reads the kernel's list"
)
def test_fast_bf16_needs_avx512_or_its_successor():
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    avx512 = {"avx512bw", "avx512vl", "avx512dq"} <= flags
    assert has_fast_bf16(CPU) == (avx512 or "avx_ne_convert" in flags)
