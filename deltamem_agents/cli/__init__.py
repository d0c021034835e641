"""The command line ``deltamem``. Thin: each command checks its arguments, calls the memory and shows the result.

Environment variables are read here: DELTAMEM_URL, DELTAMEM_SCHEMA, DELTAMEM_AGENT, the one that --upstream-key-env
names, and OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT. Only commands that need torch and Transformers import
them, so that `deltamem --help` is quick. May import everything.
"""

from deltamem_agents.cli.app import app

from deltamem_agents.cli import talking, history, erasing, database, making, training, benching  # isort: skip  # in the order of --help
from deltamem_agents.cli import guidelines, tool_server, session_hook, serving  # isort: skip

__all__ = ["app", "benching", "database", "erasing", "guidelines", "history", "making", "serving", "session_hook"]
__all__ += ["talking", "tool_server", "training"]
