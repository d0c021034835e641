"""Products of states are never computed in TF32 or half precision, and the process's switch is as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from deltamem_kernels.precision import full_precision

GPU = torch.device("cuda")  # the switch is there without a device


@pytest.fixture(params=[False, True])
def allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_off_inside_and_as_before_outside(allowed: bool) -> None:
    with pytest.raises(RuntimeError, match="stop"), full_precision(GPU):
        assert not torch.backends.cuda.matmul.allow_tf32
        with full_precision(GPU):
            pass
        assert not torch.backends.cuda.matmul.allow_tf32
        raise RuntimeError("stop")
    assert torch.backends.cuda.matmul.allow_tf32 is allowed


def test_threads_that_overlap_leave_it_as_it_was(allowed: bool) -> None:
    both, seen = threading.Barrier(2, timeout=20), []

    def work(first_out: bool) -> None:
        with full_precision(GPU):
            both.wait()
            if not first_out:
                left.wait(20)
            seen.append(torch.backends.cuda.matmul.allow_tf32)
        left.set()

    left = threading.Event()
    threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert seen == [False, False]
    assert torch.backends.cuda.matmul.allow_tf32 is allowed


def test_the_newer_switch_is_respected_too() -> None:
    code = """
import torch
from deltamem_kernels.precision import full_precision
torch.backends.cuda.matmul.fp32_precision = "tf32"
with full_precision(torch.device("cuda")):
    print(torch.backends.cuda.matmul.fp32_precision)
print(torch.backends.cuda.matmul.fp32_precision)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["ieee", "tf32"], done.stderr


def test_autocast_is_off_on_a_cpu() -> None:
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(torch.device("cpu")):
            assert (x @ x).dtype == torch.float32
