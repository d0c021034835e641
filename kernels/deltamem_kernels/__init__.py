"""The delta-rule scan at the speed of the hardware. May import torch and triton; knows nothing about agents.

`delta_scan` runs T tokens, `delta_step` one token of many streams, `explain_backend` says what runs where and why.
"""

from deltamem_kernels.dispatch import delta_scan, delta_step, explain_backend

__all__ = ["delta_scan", "delta_step", "explain_backend"]
