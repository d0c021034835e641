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
# # Inside the state
#
# An agent's state is one matrix $S$ in each adapted layer. Each token that is written makes a key $k$ and a value
# $v$, and the delta rule
#
# $$S \leftarrow \lambda S + \beta\,(v - S k)\,k^\top$$
#
# replaces what was read at that key by the new value. What is read, $S q$, corrects attention in later forwards. The
# size never changes, so a state can be full. This notebook looks at what that means. Every figure in it is computed
# here, with the bundled model of 2.4 million parameters and few questions; larger runs are in
# [docs/benchmarks.md](../../docs/benchmarks.md).

# %%
import random
import tempfile

import matplotlib.pyplot as plt

from deltamem_agents import DeltaMem

folder = tempfile.TemporaryDirectory()
mem = DeltaMem.open("tiny", url=f"sqlite:///{folder.name}/memory.db")
plt.rcParams |= {"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}


def tell(agent, *facts):
    agent.write([{"role": "user", "content": fact} for fact in facts])


# %% [markdown]
# ## What it looks like
#
# Before the first write the state is zero, and the model is the untouched backbone. Below are the matrices after one
# fact and after five.

# %%
ana = mem.agent("ana")
facts = ["My favourite colour is teal.", "Mara plays the cello.", "I live in Lisbon.", "Hugo has a dog called Biscuit."]
facts.append("In the api repository the test runner is pytest.")
tell(ana, facts[0])
one = ana.state()
tell(ana, *facts[1:])
five = ana.state()

most = max(float(matrix.abs().max()) for matrix in five.values())
figure, axes = plt.subplots(2, len(one), figsize=(6, 5.4), layout="constrained")
for row, (state, title) in zip(axes, ((one, "one fact"), (five, "five facts")), strict=True):
    for axis, (layer, matrix) in zip(row, state.items(), strict=True):
        axis.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(f"{title}, layer {layer.split('.')[2]}", fontsize=9)
        axis.set_axis_off()
plt.show()

# %% [markdown]
# `health()` puts this into numbers. *Saturation* is the effective rank over the rank: at 1 every direction is used
# alike, and a new write must overwrite an old one. `agent.health()` alone in a cell shows a table and the heat map.

# %%
for layer, figures in ana.health(examine=True).layers.items():
    print(f"{layer}  saturation {figures.saturation:.2f}  interference {figures.interference:.2f}")

# %% [markdown]
# ## What the delta rule overwrites
#
# A correction is written at the same key as what it corrects, so it replaces it. Another subject's colour has another
# key and stays.

# %%
bob = mem.agent("bob")
tell(bob, "My favourite colour is teal.", "Mara's favourite colour is amber.")
print("before:", bob.recall("What is my favourite colour?", mode="state").answer, end=", ")
print("Mara's", bob.recall("What is Mara's favourite colour?", mode="state").answer)
tell(bob, "My favourite colour is now crimson.")
print("after: ", bob.recall("What is my favourite colour?", mode="state").answer, end=", ")
print("Mara's", bob.recall("What is Mara's favourite colour?", mode="state").answer)

# %% [markdown]
# ## How much it holds
#
# Agents are told 1, 2, 4, 8 or 16 facts about different people and asked for all of them, from the state alone. An
# answer is right, wrong, or withheld: it is given only if the state raised its probability enough. As a control, the
# same questions are asked of an agent that was told nothing.

# %%
PEOPLE = "Mara Tom Ana Felix Nora Ivan Lena Omar Ruth Hugo Priya Karl Zoe Emil Aisha Paul".split()
INSTRUMENTS = (
    "piano violin cello guitar flute oboe clarinet trumpet tuba harp banjo lute viola organ drums zither".split()
)
rng = random.Random(0)
SIZES = (1, 2, 4, 8, 16)
shares = {"right": [], "wrong": [], "withheld": []}
for size in SIZES:
    counts = dict.fromkeys(shares, 0)
    for trial in range(max(1, 8 // size)):
        agent = mem.agent(f"capacity-{size}-{trial}")
        known = dict(zip(rng.sample(PEOPLE, size), rng.sample(INSTRUMENTS, size), strict=True))
        tell(agent, *(f"{person} plays the {instrument}." for person, instrument in known.items()))
        for person, instrument in known.items():
            answer = agent.recall(f"Which instrument does {person} play?", mode="state").answer
            counts["withheld" if answer is None else "right" if answer == instrument else "wrong"] += 1
    for kind, share in shares.items():
        share.append(counts[kind] / sum(counts.values()))

stranger = mem.agent("stranger")
guesses = [stranger.recall(f"Which instrument does {person} play?", mode="state").answer for person in PEOPLE]
print("told nothing:", sum(answer is not None for answer in guesses), "of", len(guesses), "answered")

# %%
figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
left = [0.0] * len(SIZES)
for kind, colour in (("right", "tab:green"), ("withheld", "lightgrey"), ("wrong", "tab:red")):
    axis.bar([str(size) for size in SIZES], shares[kind], bottom=left, label=kind, color=colour)
    left = [a + b for a, b in zip(left, shares[kind], strict=True)]
axis.set(xlabel="facts told", ylabel="share of questions", title="asked from the state alone")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## Why hybrid is the default
#
# Exact text comes from retrieval. The same agents in hybrid mode, where the records are read too:

# %%
agent = mem.agent("capacity-16-0")
told = {entry.content.split()[0]: entry.content.split()[-1].rstrip(".") for entry in agent.log()}
right = sum(agent.recall(f"Which instrument does {who} play?").answer == what for who, what in told.items())
print(f"16 facts, hybrid: {right} of 16 right")

# %% [markdown]
# ## What it was not trained on
#
# A state carries what its adapter has learned to write. The bundled adapter was trained on facts such as these. It
# was not trained on standing rules ("answer in capitals"), so it does not carry them, and everyday sentences can
# crowd out what it knows. Here is the same agent before and after one such sentence.

# %%
carl = mem.agent("carl")
tell(carl, "I live in Lisbon.")
print("before:", carl.recall("Where do I live?", mode="state").answer)
tell(carl, "The spare key is under the third flower pot, next to the old bicycle that nobody rides any more.")
print("after: ", carl.recall("Where do I live?", mode="state").answer)
print("hybrid:", carl.recall("Where do I live?").answer)

# %% [markdown]
# For what you need, train an adapter for a backbone of your own: [train_an_adapter](train_an_adapter.ipynb).

# %%
mem.close()
folder.cleanup()
