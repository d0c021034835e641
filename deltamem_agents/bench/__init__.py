"""Benchmarks of whole parts, each a program: ``python -m deltamem_agents.bench.store``.

Each checks its results before it times them, and says what it was measured on. May import every layer below; nothing
imports it. The kernels' benchmarks stand apart, in ``kernels/benchmarks``, as they need torch.
"""
