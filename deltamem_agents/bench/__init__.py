"""Benchmarks of whole parts, each a program: ``python -m deltamem_agents.bench.store``.

Each checks its results before it times them, and records the machine. May import every layer below; nothing imports it.
The kernels' benchmarks are separate, in ``kernels/benchmarks``, as they need torch.
"""
