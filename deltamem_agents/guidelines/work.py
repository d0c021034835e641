"""Work memory: the commits of a repository, and notes about the work, with what they decided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from deltamem_agents.guidelines.contradictions import contradictions
from deltamem_agents.guidelines.dependencies import changed_dependencies
from deltamem_agents.guidelines.git import GitError, git
from deltamem_agents.guidelines.records import WORK, Records
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Work
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.recall.words import STOPWORDS, text_terms
from deltamem_agents.store import Entry

FIRST = 200  # commits that the first sync records
MOST = 1000  # commits that a later one records
MOST_FILES = 100  # files of a commit that are kept
LONGEST = 4000  # characters of a commit's message
SAME_SUBJECT = 0.5  # share of an earlier decision's words that a decision reversing it repeats

_DECISION = re.compile(
    r"\b(?:decid\w+|decisions?|we (?:will|now|no longer)|instead of|rather than|switch\w*|chose|choose|going with|"
    r"go with|agreed|settled on|must|from now on|no longer|reverted?|drop(?:ped)?|keep|use)\b",
    re.IGNORECASE,
)
_INTENT = re.compile(r"^(?:intent|goal|plan|next|todo|working on|i(?: a|['’])m (?:working|going))\b", re.IGNORECASE)
_REVERSAL = re.compile(
    r"\b(?:no longer|not .{0,40}any ?more|instead of|rather than|revert|reversed?|back to|drop(?:ped)?|abandon|undo|"
    r"changed our mind|after all|replac|supersed|scrap|switch(?:ed)? (?:from|to|away))",
    re.IGNORECASE,
)
_PATH = re.compile(r"[\w.@-]+(?:/[\w.@-]+)+|[\w-]+\.[a-z]{1,5}\b")


def record_commits(repository: Repository, records: Records, head: str | None) -> int:
    """Journal the commits since those recorded, and erase those that a rebase replaced. Returns how many are new."""
    last = records.manifest.get("work")
    if head is None or head == last or repository.rebasing:
        return 0
    known = {each.id: each for each in records.entries(WORK)}
    span, count = [head], FIRST
    if isinstance(last, str):
        if _is_ancestor(repository, last, head):
            span, count = [f"{last}..{head}"], MOST
        else:
            records.erase([each for each in known if each in unreachable_commits(repository, known)], WORK)
    found = [each for each in _commits(repository, span, count) if f"commit:{each['commit']}" not in known]
    messages = []
    for each in reversed(found):
        each["dependencies"] = changed_dependencies(repository, each["commit"], tuple(each["files"]))
        text = each.pop("text")
        messages.append(
            {
                "role": "assistant",
                "content": text,
                "id": f"commit:{each['commit']}",
                "created_at": datetime.fromisoformat(each["at"]),
                "metadata": {"kind": "commit", **each},
                "folded": False,
            }
        )
    if messages:
        records.mem.agent(records.agent).write(messages, WORK, wait=False)
    return len(messages)


def _is_ancestor(repository: Repository, old: str, new: str) -> bool:
    try:
        git(repository.root, "merge-base", "--is-ancestor", old, new)
    except GitError:
        return False
    return True


def unreachable_commits(repository: Repository, known: Iterable[str]) -> set[str]:
    """Ids of recorded commits that no branch or tag leads to any more."""
    reachable = set(git(repository.root, "rev-list", "--all", "HEAD").split())
    return {each for each in known if each.startswith("commit:") and each.removeprefix("commit:") not in reachable}


def _commits(repository: Repository, span: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Commits, newest first, with message, author, time and files."""
    form = "%x01%H%x02%aI%x02%an%x02%B%x03"
    options = ("--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", f"--max-count={count}")
    told = git(repository.root, "log", f"--format={form}", *options, *span, "--")
    found = []
    for chunk in told.split("\1")[1:]:
        about, _, rest = chunk.partition("\3")
        commit, at, author, message = about.split("\2", 3)
        files = [each for each in re.split(r"[\0\n]+", rest) if each][:MOST_FILES]
        text = message.strip()[:LONGEST] or "(no message)"
        if all(map(_storable, (text, author, *files))):
            found.append({"commit": commit, "at": at, "author": author, "text": text, "files": files})
    return found


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def take_note(
    repository: Repository, records: Records, text: str, kind: str | None, files: Iterable[str], replaces: str | None
) -> tuple[Work, Work | None]:
    """Journal a note; a decision that reverses an earlier one supersedes it. Returns the note, and what it replaced."""
    earlier = [each for each in records.entries(WORK) if each.metadata.get("kind") in ("decision", "note", "intent")]
    kind = kind or ("intent" if _INTENT.match(text) else "decision" if _DECISION.search(text) else "note")
    mentioned = [each for found in _PATH.findall(text) if repository.exists(each := found.rstrip("."))]
    replaced = next((each for each in earlier if each.id == replaces), None)
    if replaced is None and kind == "decision":
        replaced = next((each for each in reversed(earlier) if reverses(text, each.text)), None)
    now = datetime.now(UTC)
    said = {
        "kind": kind,
        "commit": repository.head(),
        "branch": repository.branch(),
        "files": list(dict.fromkeys([*files, *mentioned])),
        "at": now.isoformat(),
        "author": user_name(repository),
        "dependencies": [],
    }
    message: dict[str, Any] = {
        "role": "user",
        "content": text,
        "metadata": said,
        "created_at": now,
        "folded": kind == "decision",
    }
    if replaced is not None:
        message["id"] = replaced.id
    (id,) = records.mem.agent(records.agent).write([message], WORK, wait=False) or [replaced.id if replaced else ""]
    return _work(id, text, said), work_of(replaced) if replaced else None


def reverses(text: str, earlier: str) -> bool:
    """Whether a decision reverses an earlier one.

    >>> reverses("Sessions live in PostgreSQL instead of Redis.", "Use Redis for sessions.")
    True
    >>> reverses("Use Redis for the cache of pages.", "Use Redis for sessions.")
    False
    """
    words, others = _content(text), _content(earlier)
    shared = len(words & others) / max(len(others), 1)
    if words == others and text.split() == earlier.split():
        return False
    if _REVERSAL.search(text) and shared >= SAME_SUBJECT:
        return True
    one, other = (
        Rule(text=each, file="", lines=(1, 1), sha256="", id=str(number)) for number, each in enumerate((text, earlier))
    )
    return bool(contradictions([one, other])) and shared > 0


def _content(text: str) -> set[str]:
    small = {"use", "decid", "we", "now", "longer", "instead", "will", "keep", "go"}
    return {term for term in text_terms(text) if " " not in term and term not in STOPWORDS and term not in small}


def user_name(repository: Repository) -> str:
    """The name that this repository's commits are made under; empty if it is not set."""
    try:
        return git(repository.root, "config", "user.name").strip()
    except GitError:
        return ""


def work_of(entry: Entry) -> Work:
    """A journalled commit or note."""
    return _work(entry.id, entry.text, entry.metadata)


def _work(id: str, text: str, said: Any) -> Work:
    return Work(
        id=id,
        kind=said["kind"],
        text=text,
        commit=said["commit"],
        files=tuple(said["files"]),
        at=said["at"],
        author=said["author"],
        dependencies=tuple(said["dependencies"]),
        branch=said.get("branch"),
    )
