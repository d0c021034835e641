"""Repository guidelines: read AGENTS.md and the like into rules, keep them in memory, and recall the ones that apply.

May import: `deltamem_agents.memory` and what lies below it; parsers of Markdown and configuration; git as a process.
Nothing in a repository is executed or imported.
"""

from deltamem_agents.guidelines.brief import token_count
from deltamem_agents.guidelines.guidelines import Guidelines
from deltamem_agents.guidelines.hooks import install as install_hooks
from deltamem_agents.guidelines.hooks import uninstall as uninstall_hooks
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import (
    Brief,
    Differences,
    Explanation,
    Found,
    GuidelinesRecall,
    Synced,
    Work,
)
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.guidelines.scope import Scope
from deltamem_agents.guidelines.status import Pruned, Status

__all__ = [
    "Brief",
    "Differences",
    "Explanation",
    "Found",
    "Guidelines",
    "GuidelinesRecall",
    "Pruned",
    "Repository",
    "Rule",
    "Scope",
    "Status",
    "Synced",
    "Work",
    "install_hooks",
    "token_count",
    "uninstall_hooks",
]
