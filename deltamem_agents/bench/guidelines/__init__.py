"""Measure repository guidelines: questions, scopes, silence, briefs and speed of sync, with BM25 beside the figures.

The repositories are made by a script with real git, from the files in ``repositories``. ``python -m
deltamem_agents.bench.guidelines`` prints the figures. May import everything but the command line.
"""

from deltamem_agents.bench.guidelines.measures import Figures, measure
from deltamem_agents.bench.guidelines.repositories import Case, Example, examples

__all__ = ["Case", "Example", "Figures", "examples", "measure"]
