"""The delta-rule scan at the speed of the hardware. May import torch and triton; knows nothing about agents.

`delta_scan` runs T tokens, `delta_step` one token of many streams; `explain_backend` says what runs where and why.
`few_rows` makes a model on a CPU run several sequences at once without slow products.
"""

from deltamem_kernels.cpu.products import few_rows, native_bfloat16
from deltamem_kernels.dispatch import delta_scan, delta_step, explain_backend

__all__ = ["delta_scan", "delta_step", "explain_backend", "few_rows", "native_bfloat16"]
