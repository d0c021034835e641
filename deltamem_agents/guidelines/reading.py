"""Read the sources of a repository into rules, following imports and one-line pointers within it.

What kind of rule a piece of Markdown is, and whether it is guidance at all, is decided by its text alone, in English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from posixpath import normpath

from deltamem_agents.guidelines.commands import is_command
from deltamem_agents.guidelines.facts import facts_of
from deltamem_agents.guidelines.files import UnreadableError, resolved
from deltamem_agents.guidelines.front_matter import split_front_matter
from deltamem_agents.guidelines.markdown import Piece, pieces, plain
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.rule import Kind, Rule, lines_hash
from deltamem_agents.guidelines.scope import Scope, globs_of
from deltamem_agents.guidelines.sources import INSTRUCTIONS, Source, source_of

DEEPEST_IMPORT = 5  # files that import each other, as in Claude Code
MOST_RULES = 2000  # rules of one file
LONGEST = 4000  # characters of one rule
FEW_PIECES = 2  # a file with no more of them only points to others
_IMPORT = re.compile(r"(?:^|(?<=\s))@([\w.][\w./-]*\w)(?=$|[\s.,;:)])")
_POINTED = re.compile(r"(?:\(|`|^|\s)((?:\.{1,2}/)?[\w.-]+(?:/[\w.-]+)*\.(?:md|mdc|markdown|txt))(?=\)|`|$|[\s.,;:])")
_PATH = r"`([\w.@*{},!/-]+)`"
_PLACED = re.compile(
    r"^(?:only |when working )?(?:in|under|within|inside|for|throughout) (?:files (?:in|under) |the )?"
    rf"{_PATH}((?:(?:,| and| or|,? and)\s*{_PATH})*)",
    re.IGNORECASE,
)
_GOVERNS = re.compile(
    r"^(?:scope\b|applies to|"
    r"(?:this|these|the following|all|everything)\b.{0,60}?\b(?:appl(?:y|ies)|governs?|holds?|covers?)\b"
    rf"(?: only)?(?: to| for| in)?).{{0,40}}?{_PATH}",
    re.IGNORECASE,
)
_SAYS_SEE = re.compile(
    r"(?:please |always |first,? |for .{0,60}?,? )?(?:see|read|refer to|follow|consult|use|check)\b|"
    r".{0,80}\b(?:see|in|described in|live in|are in|refer to|documented in|found in)\b",
    re.IGNORECASE,
)
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
# A page with such a name is about work on the repository. Others may be about the product, unless instructions for
# agents point to them, or a file that does little else.
_GUIDE = re.compile(
    r"(?:^|[/_.\W])(?:build|compil|test|lint|format|style|convention|contribut|develop|hacking|guide ?line|rule|commit|"
    r"pull|releas|publish|workflow|coding|code|quality|coverage|debug|ci|setup|security|branch|review|structure|layout|"
    r"architect|deploy|migrat|standard|principle|practice|naming|maintain|onboard|agent|claude|instruction)[^/]*$",
    re.IGNORECASE,
)
_BADGE = re.compile(r"^(?:\W*(?:badge|build status|license|npm version|pypi)\W*)+$", re.IGNORECASE)


@dataclass(slots=True)
class Reading:
    """What reading a repository found.

    Args:
        rules: By file, in the order of their lines.
        files: Every file that was read, and the sources that read it.
        warnings: Files that were skipped, and why.
    """

    rules: dict[str, list[Rule]] = field(default_factory=dict)
    files: dict[str, Source] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_sources(repository: Repository, sources: Iterable[Source]) -> Reading:
    """Read these sources, and what they import."""
    reading = Reading()
    queue = [(source, 0) for source in sources]
    while queue:
        source, depth = queue.pop(0)
        try:
            file = resolved(repository.root, source.file)  # a link counts as the file it leads to
            if file in reading.files:
                continue
            reading.files[file] = source = replace(source, file=file)
            rules, imported = read_file(repository, source, pointed=depth > 0)
        except UnreadableError as error:
            reading.warnings.append(f"{source.file} was skipped: {error}")
            continue
        if rules:
            reading.rules[file] = rules
        if depth < DEEPEST_IMPORT:
            queue += [(replace(source, file=each, form="markdown"), depth + 1) for each in imported]
    return reading


def read_file(repository: Repository, source: Source, *, pointed: bool = False) -> tuple[list[Rule], list[str]]:
    """The rules of one file, and the files that it imports or points to.

    Args:
        pointed: Whether another file led here; what it points to may then be about the product.

    Raises:
        UnreadableError: It cannot be read or parsed.
    """
    text = repository.read(source.file)
    if source.form == "config":
        return facts_of(source, text), []
    fields, body, before = split_front_matter(text)
    scope = Scope(source.directory, globs_of(fields.get(source.globs)) if source.globs else ())
    lines = text.split("\n")
    base = Rule(
        text="",
        file=source.file,
        lines=(1, 1),
        sha256="",
        scope=scope,
        rank=source.rank,
        always=_always(source, fields),
    )
    if source.form == "skill":
        rule = _skill(base, fields, lines)
        return [rule] if rule else [], []
    found = pieces(body, offset=before)
    if source.form == "readme":
        found = [each for each in found if is_guidance(each)]
    elif source.form == "markdown" and source.rank > 1:
        found = [each for each in found if heading_is_guidance(each)]
    return _rules(repository, base, found, lines, named=pointed or source.rank > INSTRUCTIONS)


def _rules(
    repository: Repository, base: Rule, found: list[Piece], lines: list[str], *, named: bool
) -> tuple[list[Rule], list[str]]:
    """The rules of a file's pieces, and the files that it imports or points to.

    Args:
        named: Whether a page that it points to must be named after guidance.
    """
    rules: list[Rule] = []
    imported: dict[str, None] = {}
    governed: dict[tuple[str, ...], Scope] = {}  # headings to the scope that a sentence below them gives
    for piece in found[:MOST_RULES]:
        targets = (
            []
            if piece.form in ("code", "command")
            else [
                each
                for name in _IMPORT.findall(re.sub(r"`[^`]*`", "", piece.text))
                if (each := _target(repository, base.file, name))
            ]
        )
        pointed = _pointer(repository, base.file, piece)
        if pointed and named and len(found) > FEW_PIECES and not source_of(pointed) and not _GUIDE.search(pointed):
            pointed = None  # a page about the product
        imported |= dict.fromkeys(targets)
        if pointed:
            imported[pointed] = None
        rest = _IMPORT.sub("", piece.text).strip() if targets else piece.text
        if not re.search(r"\w", rest):
            continue
        if (stated := _GOVERNS.match(piece.text)) and (
            scope := _scope(repository, base, re.findall(_PATH, piece.text[stated.start() :]))
        ):
            governed[piece.headings] = scope
        rules.append(
            replace(
                base,
                text=piece.text[:LONGEST],
                lines=(piece.first, piece.last),
                sha256=lines_hash(lines, piece.first, piece.last),
                headings=piece.headings,
                context=piece.context[:400],
                scope=_scope_of(repository, base, piece, governed),
                kind="pointer" if pointed else kind_of_piece(piece),
            )
        )
    return rules, list(imported)


def _scope_of(repository: Repository, base: Rule, piece: Piece, governed: dict[tuple[str, ...], Scope]) -> Scope:
    """The scope that a piece states itself, or its nearest introduction or heading; by default that of the file."""
    for said in (piece.text, piece.context):
        placed = _PLACED.match(said)
        if placed and (scope := _scope(repository, base, re.findall(_PATH, placed[0]))):
            return scope
    for count in range(len(piece.headings), 0, -1):
        if piece.headings[:count] in governed:
            return governed[piece.headings[:count]]
        heading = piece.headings[count - 1]
        bare = [heading.strip()] if re.fullmatch(r"[\w.@-]+(?:/[\w.@*-]+)+/?|[\w.@-]+/", heading.strip()) else []
        if scope := _scope(repository, base, re.findall(_PATH, heading) or bare):
            return scope
    return governed.get((), base.scope)


def _scope(repository: Repository, base: Rule, paths: list[str]) -> Scope | None:
    """The scope of paths that exist, relative to the root or to the file's directory, or of globs."""
    made: list[str] = []
    directory = base.scope.directory
    for path in paths:
        bare = path.strip("/").removesuffix("/**").removesuffix("/*")
        if re.search(r"[*{!?]", bare):
            made += globs_of(f"{directory}/{path}" if directory and "/" in bare.strip("*/") else path)
            continue
        near = normpath(f"{directory}/{bare}") if directory else bare
        exists = [each for each in (near, bare) if not each.startswith("..") and repository.exists(each)]
        if not bare or not exists or not ("/" in path or "." in path):
            return None
        made.append(f"/{exists[0]}/**" if repository.is_folder(exists[0]) else f"/{exists[0]}")
    if not made:
        return None
    if len(made) == 1 and made[0].endswith("/**") and "*" not in made[0][:-3]:
        return Scope(made[0][1:-3])
    return Scope("", tuple(made))


def _target(repository: Repository, file: str, name: str) -> str | None:
    """The file that a name in another file leads to; None if it is none of the repository's."""
    folder = PurePosixPath(file).parent
    for each in (normpath(str(folder / name)), normpath(name)):
        if each.startswith("..") or not (repository.root / each).is_file():
            continue
        try:
            found = resolved(repository.root, each)
        except UnreadableError:
            return None
        return found if found != file else None
    return None


def _pointer(repository: Repository, file: str, piece: Piece) -> str | None:
    """The file that a piece only points to, such as "See docs/testing.md for how to write tests."."""
    if piece.form not in ("paragraph", "item", "quote") or len(piece.text.split()) > 25:
        return None
    named = [each for each in _POINTED.findall(piece.text) if _target(repository, file, each)]
    says = _SAYS_SEE.match(piece.text)
    alone = len(piece.text.split()) <= 3
    if len(set(named)) != 1 or not (says or alone):
        return None
    target = _target(repository, file, named[0])
    known = source_of(target) if target else None
    return None if target is None or (known is not None and known.form in ("readme", "config")) else target


def _always(source: Source, fields: dict[str, object]) -> bool:
    if source.globs == "globs" and source.file.endswith((".mdc", ".md")) and "alwaysApply" in fields:
        return fields["alwaysApply"] is True
    return source.rank <= 1 and not fields.get(source.globs or "-")


def _skill(base: Rule, fields: dict[str, object], lines: list[str]) -> Rule | None:
    """A skill by its name and description: what is in it is loaded when it is used."""
    name, description = fields.get("name"), fields.get("description")
    if not isinstance(name, str) or not isinstance(description, str):
        return None
    places = [i for i, line in enumerate(lines, 1) if re.match(r"(?:name|description)\s*:", line)]
    first, last = min(places, default=1), max(places, default=1)
    while last < len(lines) and re.match(r"\s+\S", lines[last]):
        last += 1
    text = f"Skill {name.strip()}: {plain(description)}"
    return replace(
        base,
        text=text[:LONGEST],
        lines=(first, last),
        sha256=lines_hash(lines, first, last),
        kind="pointer",
        always=False,
    )


def rules_in_order(reading: Reading) -> Iterator[Rule]:
    """All rules that were read, by file and line."""
    for file in sorted(reading.rules):
        yield from reading.rules[file]


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
