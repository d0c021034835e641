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
# # Time travel and erasure
#
# The state is computed from the journal, never edited. So a fork is cheap, a rollback is exact, and after an erasure
# the state is what it would be if the message had never been said.

# %%
import json
import tempfile

from deltamem_agents import DeltaMem

folder = tempfile.TemporaryDirectory()
mem = DeltaMem.open("tiny", url=f"sqlite:///{folder.name}/memory.db")
desk = mem.agent("desk")


def told(agent):
    print(f"{agent.id}:", *(f"{entry.position} {entry.content}" for entry in agent.log()), sep="\n  ")


desk.write([{"role": "user", "content": "My favourite colour is teal."}])
desk.write([{"role": "user", "content": "The door code is 4711.", "id": "code"}])
desk.write([{"role": "user", "content": "Mara plays the cello."}])
told(desk)

# %% [markdown]
# ## Fork: try a future
#
# A fork shares the journal up to now and is independent from then on.

# %%
draft = desk.fork("draft")
draft.write([{"role": "user", "content": "My favourite colour is crimson."}])
told(draft)
print("draft:", draft.recall("What is my favourite colour?").answer)
print("desk: ", desk.recall("What is my favourite colour?").answer)

# %% [markdown]
# `diff` tells what two positions of a journal differ in: messages, and how far each layer's matrix moved.

# %%
change = draft.diff(3)
print("added:", [entry.content for entry in change.added])
for layer, distance in change.layers.items():
    print(f"{layer}  moved by {distance:.2f} of its norm")

# %% [markdown]
# ## Roll back
#
# A rollback is an entry of the journal itself, so it can be undone by rolling back to the entry before it.

# %%
position = draft.rollback(3)
print("draft:", draft.recall("What is my favourite colour?").answer)
draft.rollback(position - 1)
print("undone:", draft.recall("What is my favourite colour?").answer)

# %% [markdown]
# ## The past as it was
#
# `log(at=…)` and `state(at=…)` read an earlier position without changing anything.

# %%
print([entry.content for entry in desk.log(at=1)])

# %% [markdown]
# ## Erase
#
# A dry run first: what would go, and which forks still hold it.

# %%
plan = desk.erase(ids=["code"], dry_run=True)
print(plan.status, "-", plan.erased[0].messages, "message; also held by", list(plan.held_by))

# %%
receipt = desk.erase(ids=["code"], forks=True)
print(receipt.status)
print(json.dumps([each.as_dict() for each in receipt.erased], indent=1))
told(desk)

# %% [markdown]
# The receipt is a claim that can be checked. The state in use equals a fresh fold of what is left, and the text is in
# none of the database's files.

# %%
from pathlib import Path

print("drift from an agent that never saw it:", desk.verify().worst)
files = [path for path in Path(folder.name).iterdir() if path.is_file()]
print("found in a file:", any(b"4711" in path.read_bytes() for path in files))
print("what remains outside its reach:", *receipt.outside_reach, sep="\n  ")

# %%
mem.close()
folder.cleanup()
