"""Runs ``gpu_scan_cases.py`` in processes of its own: in Triton's interpreter anywhere, natively on a CUDA device.

Triton decides as a kernel is defined, from the environment, whether it is interpreted, and other tests of this process
may have imported it without. A failure here shows what that process printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deltamem_kernels.gpu import scan

CASES = Path(__file__).with_name("gpu_scan_cases.py")


def run_cases(*arguments: str, interpret: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES), *arguments]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=CASES.parents[2], capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-8000:]}{done.stderr[-2000:]}", pytrace=False)


@pytest.mark.slow  # the interpreter takes more than a minute
def test_interpreted() -> None:
    run_cases(interpret="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    run_cases(interpret="0")


def test_says_why_it_cannot_run() -> None:
    assert scan.unavailable(torch.device("meta")) is not None
    if not torch.cuda.is_available():
        assert scan.unavailable(torch.device("cuda")) is not None


@pytest.mark.parametrize("multiprocessors", [64, 132])
def test_long_scans_are_cut_and_large_batches_are_not(multiprocessors: int) -> None:
    assert scan.chunk_length(1, 32768, 8, multiprocessors) <= 256
    assert scan.chunk_length(16384, 512, 8, multiprocessors) >= 512
    assert scan.chunk_length(1, 32768, 32, multiprocessors) <= 512
    assert scan.chunk_length(64, 32768, 32, multiprocessors) >= 32768
    assert scan.chunk_length(64, 32768, 64, multiprocessors) >= 32768
    assert scan.chunk_length(1, 1, 64, multiprocessors) == 16
    for n in (1, 7, 4096):
        for tokens in (1, 100, 5000, 1_000_000):
            for rank in (1, 8, 48, 64):
                assert scan.chunk_length(n, tokens, rank, multiprocessors) % scan.BLOCK == 0


def test_a_long_scan_of_the_highest_rank_is_cut_on_a_large_device() -> None:
    length = scan.chunk_length(1, 32768, 64, 132)

    assert length <= 1024
    assert 32768 // length * 64 * 65 * 64 <= 32 << 20
