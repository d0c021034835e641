# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many agents
#
# One process holds one model and serves many agents. Each agent has a journal and a state of its own; what is a few
# kilobytes in SQL is all that distinguishes them. Requests of different agents run in one batch.

# %%
import asyncio
import tempfile

from deltamem_agents import DeltaMem

COLOURS = ("teal", "crimson", "amber", "olive", "navy", "ivory")
CITIES = ("Lisbon", "Oslo", "Porto", "Vienna", "Madrid", "Dublin")

folder = tempfile.TemporaryDirectory()
mem = DeltaMem.open("tiny", url=f"sqlite:///{folder.name}/memory.db")

# %% [markdown]
# ## Write for all of them at once
#
# Every method has an async twin with an `a` in front. No call blocks the event loop.

# %%


async def tell(number: int) -> None:
    agent = mem.agent(f"user-{number}")
    colour, city = COLOURS[number % 6], CITIES[number // 6 % 6]
    await agent.awrite(
        [
            {"role": "user", "content": f"My favourite colour is {colour}."},
            {"role": "user", "content": f"I live in {city}."},
        ]
    )


await asyncio.gather(*(tell(number) for number in range(36)))
print(len(mem.agents()), "agents")

# %% [markdown]
# ## Ask all of them at once
#
# The answer to one agent does not depend on which others are being served. Here each is asked from its state alone,
# so nothing but its own matrices can tell it the colour.

# %%
answers = await asyncio.gather(
    *(mem.agent(f"user-{n}").arecall("What is my favourite colour?", mode="state") for n in range(36))
)
right = [found.answer == COLOURS[n % 6] for n, found in enumerate(answers)]
wrong = [found.answer for n, found in enumerate(answers) if found.answer not in (None, COLOURS[n % 6])]
print(f"{sum(right)} of 36 right, {len(wrong)} wrong, {36 - sum(right) - len(wrong)} not answered")

# %%
cities = await asyncio.gather(*(mem.agent(f"user-{n}").arecall("Where do I live?") for n in range(36)))
print(sum(found.answer == CITIES[n // 6 % 6] for n, found in enumerate(cities)), "of 36 right in hybrid mode")

# %% [markdown]
# ## What it costs
#
# The weights are in memory once. An agent costs its state while it is being served, and its rows in the database.

# %%
from pathlib import Path

state = answers[0].usage.state_bytes
size = sum(path.stat().st_size for path in Path(folder.name).iterdir() if path.is_file())
print(f"state: {state:,} bytes an agent; database: {size / 36 / 1024:.0f} KiB an agent with two messages")

# %% [markdown]
# ## Nobody sees another's memory
#
# Every statement in SQL is scoped by an agent's id; an agent that was never written to is empty.

# %%
stranger = mem.agent("stranger")
print(stranger.log(), stranger.recall("What is my favourite colour?").answer)

# %% [markdown]
# ## More than one machine
#
# Processes share a PostgreSQL database; each computes the same state from the same journal. See
# [docs/serving.md](../../docs/serving.md) for a server, and [docs/storage.md](../../docs/storage.md) for what a write
# guarantees.

# %%
await mem.aclose()
folder.cleanup()
