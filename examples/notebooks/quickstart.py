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
# # Quickstart
#
# An agent's memory that lives in the model. What is said goes into a *journal* in SQL, and from there into a small
# *state*: one matrix in each adapted attention layer of a frozen language model. A question is answered from the
# state, from text that is found in the journal, or from both.
#
# This notebook needs `pip install deltamem-agents` and nothing else: the bundled model has 2.4 million parameters and
# runs on a CPU. It was trained on facts of a few kinds, so these are what it is good at; see its model card.

# %%
import tempfile

from deltamem_agents import DeltaMem

folder = tempfile.TemporaryDirectory()
url = f"sqlite:///{folder.name}/memory.db"
mem = DeltaMem.open("tiny", url=url)
alice = mem.agent("alice")

# %% [markdown]
# ## Write
#
# `write` returns once the messages are durable. The agent exists from its first write.

# %%
alice.write(
    [
        {"role": "user", "content": "My favourite colour is teal."},
        {"role": "user", "content": "Mara plays the cello."},
        {"role": "user", "content": "I live in Lisbon."},
    ],
    session="monday",
)
for entry in alice.log():
    print(entry.position, entry.session, entry.role, entry.content, sep="  ")

# %% [markdown]
# ## Recall
#
# Mode `state` reads the matrices alone: no text of the history is in the prompt. Mode `vector` retrieves messages and
# gives them to the model as text. `hybrid`, the default, joins both, and says where its answer came from.

# %%
for question in ("What is my favourite colour?", "Which instrument does Mara play?", "Where do I live?"):
    print(question)
    for mode in ("state", "vector", "hybrid"):
        found = alice.recall(question, mode=mode)
        print(
            f"  {mode:7} {found.answer or '-':8} from {found.source:8} {found.usage.prompt_tokens} tokens in the prompt"
        )

# %% [markdown]
# The state is always of the same size, however long the history is.

# %%
print(found.usage.state_bytes, "bytes:", {name: tuple(matrix.shape) for name, matrix in alice.state().items()})

# %% [markdown]
# ## What it does not know
#
# An answer is given only if memory supports it. For what was never said there is none. Records are whatever comes
# closest to the question; they are not a claim that it is answered.

# %%
found = alice.recall("What is my favourite drink?")
print("answer:", found.answer, "  records:", [record.text for record in found.records])

# %% [markdown]
# ## For a larger model
#
# A model of this size is no judge of everyday language. `text` is what you hand to a larger one: the records, marked
# as notes and not as instructions. It does not depend on what the small model makes of them.

# %%
alice.write([{"role": "user", "content": "The spare key is under the third flower pot."}], session="tuesday")
found = alice.recall("Where did we put the spare key?")
print(found.text)

# %% [markdown]
# ## Another process
#
# The journal is the truth, and the state is computed from it. Whoever opens the database finds both.

# %%
mem.close()
with DeltaMem.open("tiny", url=url) as mem:
    print([agent.id for agent in mem.agents()])
    print(mem.agent("alice").recall("Where do I live?").answer)
folder.cleanup()
