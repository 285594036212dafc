"""Freed memory that is kept: what the kernel counts in a process of its own."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch
from convzoo.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():  # three tensors of 64 MiB
    first = torch.ones(16 * 2**20)
    return first + torch.ones(16 * 2**20)

if {keep}:
    assert keep_freed_memory()
for _ in range(20):
    step()
before = faults()
for _ in range(4):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
def test_tensors_reuse_memory_without_new_page_faults():
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", CODE.format(keep=keep)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for keep in (False, True)
    ]
    assert counts[0] >= 4 * 3 * 32  # 64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB
    assert counts[1] < 0.1 * counts[0]


FREED = """
import psutil
from convzoo.allocator import give_back_freed_memory, keep_freed_memory

assert keep_freed_memory()
freed, last = [b"x" * 2**16 for _ in range(2000)], b"x" * 2**16
del freed
before = psutil.Process().memory_full_info().uss
give_back_freed_memory()
print(before - psutil.Process().memory_full_info().uss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
def test_freed_memory_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.9 * 2000 * 2**16
