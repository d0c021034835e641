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
# # A LangChain agent that remembers
#
# `DeltaMemMiddleware` goes into `create_agent`. It recalls what matters for the newest question into the system
# message, and journals each turn. Any chat model will do; here it is the memory's own backbone, `ChatDeltaMem`, so
# that the notebook needs no key and no network.
#
# `pip install 'deltamem-agents[langchain]'`

# %%
import tempfile

from langchain.agents import create_agent

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware, DeltaMemRetriever

folder = tempfile.TemporaryDirectory()
mem = DeltaMem.open("tiny", url=f"sqlite:///{folder.name}/memory.db")
agent = create_agent(ChatDeltaMem(mem=mem, max_tokens=32), middleware=[DeltaMemMiddleware(mem, agent_id="alice")])


def say(text, thread):
    answer = agent.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": thread}})["messages"][-1]
    print(f"{thread:8} you:   {text}\n{thread:8} agent: {answer.text}")


# %% [markdown]
# ## Two conversations
#
# The threads share nothing but the memory.

# %%
say("My favourite colour is teal.", "monday")
say("Mara plays the cello.", "monday")

# %%
say("What is my favourite colour?", "tuesday")
say("Which instrument does Mara play?", "wednesday")

# %% [markdown]
# ## What is kept
#
# The turns, once each, in the order in which they were said. The system message and the recalled notes are not
# journalled.

# %%
for entry in mem.agent("alice").log():
    print(f"{entry.session:10} {entry.role:10} {entry.content}")

# %% [markdown]
# ## As a retriever
#
# In a chain that has a retriever already, the memory takes its place.

# %%
retriever = DeltaMemRetriever(mem=mem, agent_id="alice", k=2)
for document in retriever.invoke("What does Mara play?"):
    print(f"{document.metadata['score']:.2f}", document.page_content)

# %% [markdown]
# ## Take something back

# %%
messages = mem.agent("alice").log()
receipt = mem.agent("alice").erase(ids=[(messages[0].session, messages[0].id)])
print(receipt.status, [entry.content for entry in mem.agent("alice").log()][:2])

# %% [markdown]
# [docs/langchain.md](../../docs/langchain.md) says which class serves which need: the chat model alone, a LangGraph
# store, a message history, tools, and the classic memory classes.

# %%
mem.close()
folder.cleanup()
