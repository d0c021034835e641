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
# # Train an adapter
#
# An adapter teaches a frozen model to write a state and to read it. It is trained for one checkpoint of one backbone,
# on *episodes*: what an agent is told, and what it is asked afterwards, in a context of its own. Here it is the
# bundled backbone and 30 steps, which is enough to see the loss fall and not enough to be useful.
#
# `pip install 'deltamem-agents[train]'`

# %%
import tempfile

import matplotlib.pyplot as plt

from deltamem_agents import DeltaMem
from deltamem_agents.training import AdapterTrainingConfig, read_recipe, train_adapter_for
from deltamem_agents.training.episodes import Mixture, draw_episode

folder = tempfile.TemporaryDirectory()
plt.rcParams |= {"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}

# %% [markdown]
# ## The data
#
# Episodes are generated without end from a seed: facts in an open vocabulary, corrections, small talk, questions
# about things that were never said, standing rules. Your own come from a file of JSON lines.

# %%
episode = draw_episode(7, 3, Mixture(facts=(2, 2), filler=(1, 1), ruled=0.0, records=0.0, reading=0.0))
for session in episode.sessions:
    for message in session:
        print(f"{message['role']:10} {message['content']}")
for question in episode.questions[:3]:
    print(f"asked: {question.messages[-1]['content']}  ->  {question.answer}")

# %% [markdown]
# ## The recipe
#
# A recipe has the adapter's shape and how it is trained. `read_recipe` returns those that come with the package, such
# as the one of the paper for Qwen3-4B; change what you like.

# %%
recipe = read_recipe("tiny")
print({key: recipe[key] for key in ("adapter", "start", "episodes", "learning_rate")})
config = AdapterTrainingConfig.from_dict(
    recipe
    | {
        "steps": 30,
        "warmup": 5,
        "episodes": 8,
        "evaluation": 16,
        "calibration": 0,
        "log_every": 1,
        "checkpoint_every": 30,
        "mixture": {
            "facts": [1, 1],
            "sessions": [1, 1],
            "filler": [0, 0],
            "ruled": 0.0,
            "records": 0.0,
            "reading": 0.0,
        },
    }
)

# %% [markdown]
# ## Training
#
# Only the adapter's parameters change. It runs on Transformers' `Trainer`: bfloat16, gradient checkpointing, several
# GPUs and resuming are settings. Interrupted, the same call goes on where it was.

# %%
losses = []
trained = train_adapter_for(
    "tiny",
    "generated",
    f"{folder.name}/adapter",
    config,
    on_progress=lambda progress: losses.append((progress.step, progress.loss)) if progress.loss is not None else None,
)
figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.plot(*zip(*losses, strict=True))
axis.set(xlabel="step", ylabel="loss on replies", ylim=(0, None))
plt.show()

# %% [markdown]
# ## What it is worth
#
# Measured on held-out episodes, next to two controls: the zero state, and the state of another episode (a donor). A
# state that matters beats both. After 30 steps no reply is right yet, but on what was stated the loss with the right
# state is already below that of a donor's: the first sign that something of the episode is carried.

# %%
print(f"{'kind':12} {'state read':10} {'right':>6} {'loss':>6}")
for each in trained.measured:
    print(f"{each.kind:12} {each.arm:10} {each.right:6.2f} {each.loss:6.2f}")

# %% [markdown]
# ## Use it
#
# A memory takes the adapter by its folder. States of another adapter are not reused: the journal is folded anew.

# %%
with DeltaMem.open("tiny", adapter=f"{folder.name}/adapter", url=f"sqlite:///{folder.name}/memory.db") as mem:
    agent = mem.agent("alice")
    agent.write([{"role": "user", "content": "My dog is called Rex."}])
    print({name: tuple(matrix.shape) for name, matrix in agent.state().items()})
folder.cleanup()

# %% [markdown]
# [docs/training.md](../../docs/training.md) goes on from here: training in stages, on a GPU, from your own data, and
# a model card with the figures.
