"""Statements are made once: what runs again finds them in SQLAlchemy's cache, so that a process does not grow."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, event

from deltamem_agents.store import Selection, Store

Say = Callable[..., dict[str, Any]]


def a_round(store: Store, say: Say, number: int, folder: Path) -> None:
    """All that is done with agents, on new ones and with other numbers of rows."""
    agent, other = f"a{number}", f"b{number}"
    store.append(agent, [say(f"apple {i}") for i in range(1 + number)], "s")
    store.append(agent, [say("banana"), say("cherry")], "s")
    store.append(agent, [say(f"damson {i}", id=str(i)) for i in range(2 + number)], "t")
    store.append(agent, [say("elder", id="0")], "t")
    store.live(agent)
    store.messages.described(agent, "t", ("0", "1"))
    store.records.search_text(agent, ["damson"], 5)
    keys = [key for key, _ in store.records.missing_embeddings(agent, "m", 50)]
    store.records.put_embeddings(agent, "m", keys, np.ones((len(keys), 2), np.float32))
    store.fork(agent, other)
    store.erase(agent, Selection(ids=[("t", "1")]))
    store.erase(other, Selection(ids=["0"]))
    store.rollback(agent, 1)
    store.export(agent, folder / f"{number}.zip")
    store.import_(folder / f"{number}.zip", f"c{number}")
    store.erase(other, Selection(whole=True))
    store.purge()


def test_no_statement_is_made_anew(store: Store, say: Say, tmp_path: Path) -> None:
    missed: Counter[str] = Counter()

    def executed(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if context.cache_hit.name == "CACHE_MISS":
            missed[statement] += 1

    for number in range(2):
        a_round(store, say, number, tmp_path)
    event.listen(Engine, "after_cursor_execute", executed)
    try:
        for number in range(2, 5):
            a_round(store, say, number, tmp_path)
    finally:
        event.remove(Engine, "after_cursor_execute", executed)
    assert not missed
