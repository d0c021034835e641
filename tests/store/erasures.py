"""Many erasures on SQLite, one by one, with figures; see `make soak-erasures`. A program of its own."""

from __future__ import annotations

import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from deltamem_agents.store import Selection, Store, versions
from deltamem_agents.store.database import open_database
from deltamem_agents.store.dialects.fts5_levels import levels

AGENTS = 20


def main(count: int) -> None:
    """Erase so many messages of a few agents, while others are written; then check all that is left."""
    print(f"SQLite {sqlite3.sqlite_version}, {count} erasures of {AGENTS} agents")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        with Store.open(f"sqlite:///{path}") as store:
            of_each = count // AGENTS
            for agent in range(AGENTS):
                told = [
                    {"role": "user", "content": f"xq{agent}q{i}x, a note on subject{i % 50}", "id": f"m{i}"}
                    for i in range(of_each + 10)
                ]
                store.append(f"agent{agent}", told, "s")
            print("erasures  ms each  levels  file MB  memory MB")
            began = time.perf_counter()
            for i in range(of_each):
                for agent in range(AGENTS):
                    store.erase(f"agent{agent}", Selection(ids=[f"m{i}"]))
                    reason = store.purge()
                    assert reason is None, reason
                store.append("meanwhile", [{"role": "user", "content": f"meanwhile {i}"}], "s")
                if (i + 1) % max(of_each // 10, 1) == 0:
                    show((i + 1) * AGENTS, time.perf_counter() - began, max(of_each // 10, 1) * AGENTS, path)
                    began = time.perf_counter()
            assert all(len(store.live(f"agent{agent}")) == 10 for agent in range(AGENTS))
            found = store.records.search_text("agent0", ["note"], 99)
            assert len(found) == 10, found
        database = open_database(f"sqlite:///{path}", None)
        assert versions.differences(database) == []
        database.close()
        left = b"".join(each.read_bytes() for each in Path(folder).iterdir())
        erased = [f"xq{agent}q{i}x" for agent in range(AGENTS) for i in range(of_each)]
        assert not [each for each in erased if each.encode() in left]
    print("all that was erased is gone from the files, the index is sound, and what was left is found")


def show(done: int, seconds: float, since: int, path: Path) -> None:
    """A line of figures."""
    with sqlite3.connect(path) as connection:
        height = len(levels(connection, "deltamem_records_fts") or ())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done:8d}  {1000 * seconds / since:7.1f}  {height:6d}  {path.stat().st_size / 1e6:7.2f}  {memory:9.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
