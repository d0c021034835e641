"""The kind of a piece of Markdown, and whether it is guidance at all. English, from the text alone."""

from __future__ import annotations

import re

from deltamem_agents.guidelines.commands import is_command
from deltamem_agents.guidelines.markdown import Piece
from deltamem_agents.guidelines.rule import Kind

_NORM = re.compile(
    r"\b(?:must|never|always|should|shall|do not|don['’]t|avoid|prefer|require[ds]?|only|forbidden|not allowed|"
    r"prohibited|mandatory|ensure|make sure|keep|may not|cannot|can't|instead of|rather than|no longer|needs? to|"
    r"have to|has to|is banned|disallowed|expected to)\b",
    re.IGNORECASE,
)
_IMPERATIVE = re.compile(
    r"^(?:please |then |first,? |(?:when|if|before|after) .{3,60}?, )?(?:use|run|write|add|"
    r"keep|put|place|prefer|avoid|follow|name|sort|format|lint|test|commit|push|open|create|update|bump|wrap|return|"
    r"raise|throw|log|handle|validate|document|include|exclude|limit|indent|import|export|define|declare|mark|prefix|"
    r"suffix|squash|rebase|merge|sign|tag|release|deploy|build|install|regenerate|generate|check|ask|stop|leave|delete|"
    r"remove|replace|move|store|read|load|call|pass|inject|mock|cover|assert|escape|sanitize|encrypt|rotate|pin|lock|"
    r"treat|make|set|start|end|no|not|no new|all|every|each|one|only|two|max(?:imum)?|min(?:imum)?)\b",
    re.IGNORECASE,
)
_GUIDANCE = re.compile(
    r"\b(?:build|compil|test|lint|format|style|convention|contribut|develop|hacking|guideline|rule|commit|pull request|"
    r"release|workflow|coding|quality|coverage|type.?check|debug|ci|continuous|setup|set up|getting started|install|"
    r"run|scripts?|commands?|requirements?|prerequisites?|dependenc|security|branch|review|structure|layout|"
    r"architecture|deploy|migrat|documentation|docs|local)",
    re.IGNORECASE,
)
_BADGE = re.compile(r"^(?:\W*(?:badge|build status|license|npm version|pypi)\W*)+$", re.IGNORECASE)


def kind_of_piece(piece: Piece) -> Kind:
    """Whether a piece is a standing rule, a command, or a fact."""
    code = re.findall(r"`([^`]+)`", piece.text)
    if piece.form == "command" or any(map(is_command, code)):
        return "command"
    if _NORM.search(piece.text) or _IMPERATIVE.match(piece.text):
        return "standing"
    if code and any(is_command(each, bare=True) for each in code):
        return "command"
    return "fact"


def is_guidance(piece: Piece) -> bool:
    """Whether a piece of a README is about building, testing, style or contributing, by its headings."""
    below_title = piece.headings[1:] if len(piece.headings) > 1 else ()
    return any(_GUIDANCE.search(each) for each in below_title or piece.headings) and heading_is_guidance(piece)


def heading_is_guidance(piece: Piece) -> bool:
    """Whether a piece is more than a badge, or a word of thanks."""
    return len(piece.text) > 3 and not _BADGE.match(piece.text)
