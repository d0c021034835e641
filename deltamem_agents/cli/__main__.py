"""``python -m deltamem_agents.cli``."""

from deltamem_agents.cli import app

app()
