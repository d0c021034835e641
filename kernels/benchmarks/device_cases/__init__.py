"""What `device.py` runs on a device: correctness first, then times. A case makes rows, in a process of its own.

Everything here runs on a CPU too, with sizes cut down and Triton interpreted, so that the tests keep it working. May
import torch, triton, transformers, numpy and this repository; nothing else.
"""

from device_cases.case import Case, Setting

__all__ = ["Case", "Setting"]
