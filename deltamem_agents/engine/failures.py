"""How failed steps are classified (out of memory, lost device), and the errors that callers get."""

from __future__ import annotations

import torch

from deltamem_agents.errors import ClosedError, EngineFailedError, EngineMemoryError, EngineTimeoutError


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def told(error: Exception) -> Exception:
    """The error for a request that failed while it ran alone."""
    if out_of_memory(error):
        return EngineMemoryError(
            f"the device ran out of memory with a single request ({error}); use a shorter prompt, a smaller backbone "
            "or dtype, or a larger device"
        )
    return error


def check_device(device: torch.device) -> None:
    """Raise if the device is unusable, such as a GPU after a failed assertion."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def failed(cause: BaseException) -> EngineFailedError:
    """The error for all requests when the engine's thread has hit an error of its own."""
    error = EngineFailedError(
        f"the engine has stopped after an error outside any request ({described(cause)}); close every DeltaMem that "
        "uses it and open it again, and report the error"
    )
    error.__cause__ = cause
    return error


def too_late(seconds: float) -> EngineTimeoutError:
    """The error for a request that is not finished at its deadline, so long after it was submitted."""
    return EngineTimeoutError(f"not finished after {seconds:.1f} s; give it a longer timeout, or the engine less to do")


def closed() -> ClosedError:
    """The error for requests submitted after `close`."""
    return ClosedError("this DeltaMem was closed; open it again")


def unfinished() -> ClosedError:
    """The error for requests that were waiting or running at `close`."""
    return ClosedError("this DeltaMem was closed before the request was finished; open it again")


def described(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # raised by its own __str__
        lines = []
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
