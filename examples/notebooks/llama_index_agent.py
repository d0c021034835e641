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
# # A LlamaIndex agent that remembers
#
# `DeltaMemory` is a `BaseMemory`: give it to an agent's run or to a chat engine. It keeps the turns of the session
# within a token limit, and recalls the rest. `DeltaMemLLM` is the memory's own backbone as an LLM, so that the
# notebook needs no key and no network; any other LLM will do.
#
# `pip install 'deltamem-agents[llama-index]'`

# %%
import tempfile

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory, DeltaMemRetriever

folder = tempfile.TemporaryDirectory()
mem = DeltaMem.open("tiny", url=f"sqlite:///{folder.name}/memory.db")
agent = FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=32), tools=[])


async def say(text, session):
    memory = DeltaMemory.from_defaults(mem, "alice", session_id=session, token_limit=2000)
    print(f"{session:8} you:   {text}\n{session:8} agent: {await agent.run(text, memory=memory)}")


# %% [markdown]
# ## Two sessions

# %%
await say("My favourite colour is teal.", "monday")
await say("Mara plays the cello.", "monday")

# %%
await say("What is my favourite colour?", "tuesday")

# %% [markdown]
# ## What a prompt gets
#
# `get` returns the messages for the next prompt: recalled notes first, then what of the session fits.

# %%
memory = DeltaMemory.from_defaults(mem, "alice", session_id="wednesday", token_limit=2000)
await memory.aput(ChatMessage(role="user", content="Which instrument does Mara play?"))
for message in await memory.aget():
    print(f"{message.role.value}: {message.content}")

# %% [markdown]
# ## As a retriever

# %%
for node in await DeltaMemRetriever(mem=mem, agent_id="alice", k=2).aretrieve("What does Mara play?"):
    print(f"{node.score:.2f}", node.text)

# %% [markdown]
# [docs/llama-index.md](../../docs/llama-index.md) has the memory block, chat engines and workflows.

# %%
await mem.aclose()
folder.cleanup()
