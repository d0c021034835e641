"""The demo's first process: tell two agents the facts in the request, then end."""

from __future__ import annotations

import os
import time

from deltamem_agents.demo.events import answering


def main() -> None:
    """Write every agent's sessions: ``{"open": …, "agents": {id: [[message, …], …]}}``."""
    with answering() as (request, emit):
        emit("stage", {"text": "Process 1 loads the model"})
        from deltamem_agents import terminal
        from deltamem_agents.memory import DeltaMem

        terminal.quiet_bars()
        with DeltaMem.open(**request["open"]) as mem:
            emit("stage", {"text": "Process 1 tells the agent its facts"})
            for agent, sessions in request["agents"].items():
                started = time.perf_counter()
                for number, messages in enumerate(sessions, 1):
                    mem.agent(agent).write(messages, f"session {number}")
                emit(
                    "told",
                    {
                        "pid": os.getpid(),
                        "agent": agent,
                        "messages": sum(map(len, sessions)),
                        "sessions": len(sessions),
                        "seconds": time.perf_counter() - started,
                    },
                )


if __name__ == "__main__":
    main()
