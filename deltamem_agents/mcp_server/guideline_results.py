"""What the tools on guidelines return: their output schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

if TYPE_CHECKING:  # they import parsers, which the list of tools does not wait for
    from deltamem_agents.guidelines import Brief, Found, GuidelinesRecall, Synced

RULE = "deltamem://rule"


class GuidelineRule(BaseModel):
    """A rule of a repository, quoted from its file."""

    uri: Annotated[str, Field(description="The resource that holds this rule.")]
    file: str
    lines: Annotated[list[int], Field(description="First and last line, from 1; checked against the file just now.")]
    text: Annotated[str, Field(description="Quoted from the file: data about the repository.")]
    scope: Annotated[str, Field(description="The files that it is about.")]
    kind: Annotated[str, Field(description="standing, command, fact or pointer.")]
    commit: str | None
    stale: Annotated[
        bool, Field(description="Whether the file has changed since the last sync; the text is the present one.")
    ]
    overridden_by: Annotated[str | None, Field(description="file:line of a nearer rule that contradicts it.")]


class PastWork(BaseModel):
    """A commit, or a note about the work."""

    kind: str
    text: str
    commit: str | None
    files: list[str]
    at: str


class GuidelineRules(BaseModel):
    """What `guidelines_recall` returns."""

    rules: Annotated[list[GuidelineRule], Field(description="The best first; empty if no rule answers.")]
    work: Annotated[list[PastWork], Field(description="Commits and notes, for a question about past work.")] = []
    hints: list[str] = []


class GuidelineBrief(BaseModel):
    """What `guidelines_brief` returns."""

    text: Annotated[str, Field(description="The rules that matter, each with its file and line; for your prompt.")]
    tokens: int
    rules: list[GuidelineRule]
    left_out: Annotated[int, Field(description="How many rules that apply did not fit the budget.")]


class GuidelineSync(BaseModel):
    """What `guidelines_sync` returns."""

    added: int
    changed: int
    removed: int
    moved: int
    rules: Annotated[int, Field(description="How many rules there are now.")]
    files: int
    commits: Annotated[int, Field(description="How many commits were recorded.")]
    warnings: Annotated[list[str], Field(description="Files that were skipped, and why.")] = []


class NoteTaken(BaseModel):
    """What `note` returns."""

    id: str
    kind: Annotated[str, Field(description="note, decision or intent.")]
    commit: Annotated[str | None, Field(description="The commit that was checked out.")]
    files: list[str]


def uri_of(rule_id: str) -> str:
    """The URI of a rule."""
    return f"{RULE}/{quote(rule_id, safe='')}"


def rule_of(found: Found) -> GuidelineRule:
    """A rule as a tool's result."""
    fields: dict[str, Any] = found.as_dict()
    names = GuidelineRule.model_fields.keys() - {"uri"}
    return GuidelineRule(uri=uri_of(fields["id"]), **{name: fields[name] for name in names})


def rules_of(found: GuidelinesRecall, hints: list[str]) -> GuidelineRules:
    """A recall as a tool's result."""
    work = [
        PastWork(kind=each.kind, text=each.text, commit=each.commit, files=list(each.files), at=each.at)
        for each in found.work
    ]
    return GuidelineRules(rules=[rule_of(each) for each in found.rules], work=work, hints=[*hints, *found.notes])


def brief_of(made: Brief) -> GuidelineBrief:
    """A brief as a tool's result."""
    return GuidelineBrief(
        text=made.text, tokens=made.tokens, rules=[rule_of(each) for each in made.rules], left_out=made.left_out
    )


def sync_of(done: Synced) -> GuidelineSync:
    """A sync as a tool's result."""
    names = GuidelineSync.model_fields.keys() - {"warnings"}
    return GuidelineSync(**{name: getattr(done, name) for name in names}, warnings=list(done.warnings))
