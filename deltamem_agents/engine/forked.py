"""What a forked process must do before it runs a model, if its parent has run one.

OpenMP's threads do not exist in the child, and GNU's library waits for them forever once the thread that forked runs a
large computation. So such a child computes with one thread.
"""

from __future__ import annotations

import logging
import os

import torch

log = logging.getLogger(__name__)

_settled: list[int] = []  # ids of processes that ran models, each forked from the one before


def settle_after_fork() -> None:
    """Limit torch to one thread if the parent process ran a model; call before loading a model or making an engine."""
    here = os.getpid()
    if _settled and here not in _settled:
        torch.set_num_threads(1)
        log.info("torch computes with one thread in process %d, which was forked from one that ran a model", here)
    if here not in _settled:
        _settled.append(here)


def in_forked_process(error: Exception) -> bool:
    """Whether this is CUDA's error in a child of a process that has used CUDA."""
    return isinstance(error, RuntimeError) and "forked subprocess" in str(error)
