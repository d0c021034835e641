"""The demo: one process tells an agent facts and ends; another opens the database and answers. Nothing is scripted.

May import everything below the command line; the processes are in `deltamem_agents.demo.processes`.
"""

from deltamem_agents.demo.run import Shown, run_demo

__all__ = ["Shown", "run_demo"]
