"""What is amiss once all writers have ended: the database, its files and what processes held, against the ledgers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ledger
import rows
import worker
from sqlalchemy import text

from deltamem_agents.store import Store, versions
from deltamem_agents.store.database import Database, open_database

FLAT = 1.05  # of the memory that a process held after its first minute
SAME = 1e-4  # relative, float32


@dataclass
class Verdict:
    """What is amiss, and how many there were of what."""

    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def of(url: str, folder: Path, seconds: float, files: Path) -> Verdict:
    """The verdict on a run. Nobody else has the database open."""
    found = Verdict()
    counts: Counter[str] = Counter()
    known, gone, kept = {*rows.SHARED, "probe"}, set[str](), set[str]()
    exported: set[str] = set()
    with Store.open(url) as store, closing(open_database(url, None)) as database:
        for path in sorted((folder / "ledgers").iterdir()):
            lines = list(ledger.lines(path))
            counts.update(line["begin"]["what"] for line in lines if "begin" in line)
            counts.update(line["count"] for line in lines if "count" in line)
            found.faults += [f"{path.stem}: {line['fault']}" for line in lines if "fault" in line]
            world, pending = ledger.replay(path)
            known |= set(world.agents)
            gone |= world.gone
            kept |= world.texts()
            exported |= {Path(each).name for each in world.exported}  # the writer was to import it next
            # Or it had, and was killed before it took the file away.
            exported |= {Path(line["begin"]["path"]).name for line in lines if _is_import(line)}
            wrong = rows.differences(world, rows.stored(database, path.stem))
            found.faults += [f"{path.stem} at the end: {each}" for each in wrong]
            if pending is not None:
                found.faults.append(f"{path.stem} did not finish {pending}")
        counts["messages kept"], counts["messages erased"] = len(kept), len(gone)
        _forks(store, folder, found, counts, known)
        strangers = {agent.id for agent in store.agents()} - known
        found.faults += [f"there are agents that nobody made: {sorted(strangers)}"] if strangers else []
        for agent in store.agents():
            _check_agent(store, agent.id, found)
        found.faults += [f"the purge has to wait: {reason}" for reason in [store.purge()] if reason]
        found.faults += versions.differences(database)
        if url.startswith("sqlite"):
            _check_index(database, found, counts)
    left = [path.name for path in (folder / "archives").iterdir() if path.name not in exported]
    found.faults += [f"archives that were not finished are left: {left}"] if left else []
    _search_files(files, gone, found)
    _converge(url, found)
    _held(folder, seconds, found, counts)
    found.counts = dict(counts)
    return found


def _is_import(line: dict[str, Any]) -> bool:
    """Whether a line of a ledger begins an import."""
    return line.get("begin", {}).get("what") == "import"


def _forks(store: Store, folder: Path, found: Verdict, counts: Counter[str], known: set[str]) -> None:
    """Each forked process wrote once, or was told that it cannot; none hung."""
    for path in (folder / "forks").glob("*.jsonl"):
        lines = list(ledger.lines(path))
        name = f"fork-{path.stem}"
        found.faults += [f"{name}: {line['fault']}" for line in lines if "fault" in line]
        ended = [line for line in lines if "ended" in line]
        if not ended:
            stacks = path.with_suffix(".stacks").read_text()
            found.faults.append(f"{name} did not end in {worker.FORKED} s: {lines}\n{stacks}")
            continue
        counts[f"forked process {ended[0]['ended']}"] += 1
        live = [entry.id for entry in store.live(name)]
        if live != ended[0].get("ids", []):
            found.faults.append(f"{name} has {live}, and was told {ended[0]}")
        if live:
            known.add(name)


def _check_agent(store: Store, agent: str, found: Verdict) -> None:
    """Records and full text are those of the live messages, and the stored state is the fold."""
    live = store.live(agent)
    if {entry.position for entry in live} != {record.position for record in store.records.read(agent)}:
        found.faults.append(f"{agent}: the records are not those of the live messages")
    for entry in live[:: max(1, len(live) // 20)]:
        token = entry.text.split()[0]
        hits = [record.text.split()[0] for record, _ in store.records.search_text(agent, [token], 5)]
        if token not in hits:
            found.faults.append(f"{agent}: a search for {token} gives {hits}")
    newest = store.states.newest(agent, worker.FINGERPRINT)
    known = [entry for entry in live if newest is not None and entry.position <= newest.position]
    if newest is not None and worker.folded(known) != newest.state:
        found.faults.append(f"{agent}: the state stored at {newest.position} is not the fold of its journal")


def _check_index(database: Database, found: Verdict, counts: Counter[str]) -> None:
    """The full-text index is whole, and its levels have not become more."""
    check = "INSERT INTO deltamem_records_fts(deltamem_records_fts, rank) VALUES ('integrity-check', 1)"
    database.write(lambda connection: connection.execute(text(check)))
    structure = "SELECT block FROM deltamem_records_fts_data WHERE id = 10"
    block = database.read(lambda connection: connection.scalar(text(structure)))
    counts["levels of the full-text index"] = levels = levels_of(block)
    if levels > 64:
        found.faults.append(f"the full-text index has {levels} levels")


def levels_of(block: bytes) -> int:
    """How many levels an FTS5 index has, by its structure record: a cookie, perhaps a mark, then a varint."""
    at, number = (8 if block[4:8] == b"\xff\x00\x00\x01" else 4), 0
    while block[at] & 0x80:
        number, at = number << 7 | block[at] & 0x7F, at + 1
    return number << 7 | block[at]


def _search_files(folder: Path, gone: set[str], found: Verdict) -> None:
    """No erased text is in any of the database's files."""
    tokens = {each.split()[0][4:] for each in gone}  # without the beginning, which an index shares among neighbours
    paths = [path for path in folder.rglob("*") if path.is_file() and "pg_wal" not in path.parts]
    paths = [path for path in paths if path.name.startswith("memory.db") or "base" in path.parts]
    command = ["grep", "-aohE", "[0-9a-f]{8}zq", *map(str, paths)]
    there = set(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())
    if left := tokens & there:
        found.faults.append(f"{len(left)} erased texts are in the files: {sorted(left)[:10]}")
    if not paths or not there:
        found.faults.append(f"nothing at all is found in the files {paths}")


def _converge(url: str, found: Verdict) -> None:
    """Two processes come to the same states, and these are the folds of the journals."""
    program = (
        "import json, sys; from deltamem_agents import DeltaMem\n"
        "from deltamem_agents.store.codec import encode; from deltamem_agents.store.revisions import checksum_of\n"
        "mem = DeltaMem.open('tiny', url=sys.argv[1], embedder=False)\n"
        "agents = [each.id for each in mem.agents() if each.messages and not each.id.startswith('fork-')][:12]\n"
        "print(json.dumps({agent: (max(mem.agent(agent).verify().layers.values(), default=0.0),\n"
        "    checksum_of(encode(mem.agent(agent).state()))) for agent in agents}))\n"
        "mem.close()"
    )
    told: list[dict[str, Any]] = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=False)
        if done.returncode:
            found.faults.append(f"the memory cannot be opened: {done.stderr[-2000:]}")
            return
        told.append(json.loads(done.stdout))
    drifted = {agent: drift for agent, (drift, _) in told[0].items() if not drift < SAME}
    if drifted:
        found.faults.append(f"states that are not the fold: {drifted}")
    if {agent: state for agent, (_, state) in told[0].items()} != {
        agent: state for agent, (_, state) in told[1].items()
    }:
        found.faults.append("two processes have come to other states")


def _held(folder: Path, seconds: float, found: Verdict, counts: Counter[str]) -> None:
    """Who was not killed holds no more in the end than after a first while."""
    for slot in ("0", "m"):
        (path,) = (folder / "held").glob(f"{slot}-*.jsonl")
        held = [json.loads(line) for line in path.read_text().splitlines()]
        early = [each for each in held if 60 <= each["second"] < 120] or held[len(held) // 2 : len(held) // 2 + 10]
        late = [each for each in held if each["second"] > held[-1]["second"] - 30]
        for minute in range(int(held[-1]["second"] // 60)):  # the curve tells what is gathered from what warms up
            these = [each["bytes"] for each in held if minute <= each["second"] / 60 < minute + 1]
            counts[f"bytes of process {slot}, minute {minute + 1}"] = int(statistics.median(these))
        for what in ("bytes", "threads", "files"):
            before, after = (statistics.median(each[what] for each in some) for some in (early, late))
            counts[f"{what} of process {slot}, early"], counts[f"{what} of process {slot}, late"] = (
                int(before),
                int(after),
            )
            slack = FLAT if what == "bytes" else 1.0
            if seconds >= 300 and after > before * slack + (0 if what == "bytes" else 2):
                found.faults.append(f"process {slot} held {before} {what} early, and {after} late")
