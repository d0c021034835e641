"""What a forked process has to do before it runs a model of its own, where its parent has run one.

OpenMP's threads are not there in a child, and GNU's library waits for them for ever as soon as the thread that forked
computes anything large there. So such a child computes with one thread.
"""

from __future__ import annotations

import logging
import os

import torch

log = logging.getLogger(__name__)

_settled: list[int] = []  # processes that ran models, each forked from the one before


def settle_after_fork() -> None:
    """Before a model is loaded or an engine made: compute with one thread, where the parent of this process has."""
    here = os.getpid()
    if _settled and here not in _settled:
        torch.set_num_threads(1)
        log.info("torch computes with one thread in process %d, which was forked from one that ran a model", here)
    if here not in _settled:
        _settled.append(here)


def in_forked_process(error: Exception) -> bool:
    """Whether it is what CUDA says in a child of a process that has used it."""
    return isinstance(error, RuntimeError) and "forked subprocess" in str(error)
