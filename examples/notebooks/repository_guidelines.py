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
# # Repository guidelines that are not forgotten
#
# People write AGENTS.md; their agents forget it after a compaction, or pay for all of it in each prompt. `Guidelines`
# reads the rules of a repository into a memory of its own, and gives back those that matter, each with file and line.
# A citation is verified before it is used.
#
# `pip install 'deltamem-agents[guidelines]'`; no model is loaded here.

# %%
import subprocess
import tempfile
from pathlib import Path

from deltamem_agents import DeltaMem
from deltamem_agents.guidelines import Guidelines

folder = tempfile.TemporaryDirectory()
root = Path(folder.name) / "shop"
(root / "src" / "billing").mkdir(parents=True)
(root / "AGENTS.md").write_text(
    """# Working here

- Indent Python with four spaces; lines have at most 100 characters.
- Run `make check` before every commit.
- Never edit files in `generated/`.

## Testing

- Tests never touch the network.
- Run the tests with `pytest -q`.
"""
)
(root / "src" / "billing" / "AGENTS.md").write_text(
    """# Billing

- Amounts are integers in cents, never floats.
- Run the tests with `pytest -q tests/billing`.
"""
)
(root / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.12"\n[tool.ruff]\nline-length = 100\n')


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True)


git("init", "-q")
git("add", "-A")
git("commit", "-qm", "Rules")
mem = DeltaMem.open(None, url=f"sqlite:///{folder.name}/memory.db")
guidelines = Guidelines(mem, root)

# %% [markdown]
# ## Sync
#
# Only what changed is touched: a second sync writes nothing.

# %%
first = guidelines.sync()
second = guidelines.sync()
print("first: ", first.added, "rules added")
print("second:", second.added, "rules added")

# %% [markdown]
# ## Recall, with a citation
#
# The nearer rule comes first. What a rule further up says otherwise is marked as overridden.

# %%


def ask(question, path=None):
    print(question, f"[{path}]" if path else "")
    for found in guidelines.recall(question, path=path, k=3).rules:
        overridden = f"  (overridden by {found.overridden_by})" if found.overridden_by else ""
        print(f"  {found.rule.citation:28} {found.rule.text}{overridden}")


ask("how do I run the tests?")
ask("how do I run the tests?", "src/billing/invoice.py")
ask("which Python version do we need?")

# %% [markdown]
# A question that no rule answers gets no rule.

# %%
ask("who won the match last night?")

# %% [markdown]
# ## Brief
#
# What an agent gets when it starts, and again after its context was compacted: the rules that matter for the task,
# within a budget of tokens.

# %%
brief = guidelines.brief("add a discount to invoices", paths=["src/billing/invoice.py"], budget=200)
print(brief.text)
print(f"\n{brief.tokens} tokens")

# %% [markdown]
# ## A rule changes
#
# Edited but not synced yet, a rule is returned as it stands now, marked as stale. After the sync the old text is gone
# from recall.

# %%
agents = root / "AGENTS.md"
agents.write_text(agents.read_text().replace("make check", "make verify"))
[stale] = guidelines.recall("what do I run before a commit?", k=1).rules
print("stale:", stale.stale, "-", stale.rule.text)
guidelines.sync()
[fresh] = guidelines.recall("what do I run before a commit?", k=1).rules
print("stale:", fresh.stale, "-", fresh.rule.text)

# %% [markdown]
# [docs/guidelines.md](../../docs/guidelines.md) has the sources that are read, git hooks, work memory, and the
# command line; [docs/mcp.md](../../docs/mcp.md) the server that gives coding agents the same.

# %%
mem.close()
folder.cleanup()
