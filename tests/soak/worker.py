"""A process of writers, each with agents of its own, a part in shared ones, and a ledger; killed at any moment.

    worker.py URL FOLDER SLOT SEED WRITERS [model]

The first writer is the main thread's, which Ctrl-C interrupts within what it does. With ``model`` the writers go
through a `DeltaMem`; otherwise no torch is imported. It ends when the file ``stop`` appears in the folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ledger
import numpy  # noqa: F401  # an interrupt within its first import makes it useless for the rest of the process
import rows
from journals import World
from operations import Actor, Choosing, InMemory, OnStore, perform
from sqlalchemy import create_engine, text

from deltamem_agents.errors import DeltaMemError, ForkedError, UnknownAgentError
from deltamem_agents.store import Entry, Revision, Store
from deltamem_agents.store.database import Database, open_database

LONGEST = 30.0  # seconds that a turn at the database may be waited for: what docs/storage.md promises
FORKED = 45.0  # seconds that a forked process has: more than what it may wait for its turn
FINGERPRINT = "chain"  # of what stands in for a state here: a hash of hashes, folded as a state is


class Interruptible:
    """Lets Ctrl-C through only while something is done, never while the ledger is written."""

    def __init__(self) -> None:
        self._inside = False

    def __call__(self, *_: object) -> None:
        if self._inside:
            self._inside = False
            raise KeyboardInterrupt

    def run(self, work: Callable[[], Any]) -> Any:
        try:
            self._inside = True
            return work()
        finally:
            self._inside = False


class Writer:
    """One thread's operations, one after the other."""

    def __init__(self, name: str, database: Database, url: str, folder: Path, actor: Actor, seed: int) -> None:
        self.name, self.database, self.url, self.folder, self.actor = name, database, url, folder, actor
        self.interruptible: Interruptible | None = None
        self.random = random.Random(seed)
        self.choosing = Choosing(name, self.random, folder / "archives")
        self.ledger = ledger.Ledger(folder / "ledgers" / f"{name}.jsonl")
        self.world = World()
        self.forks = 0

    def live(self) -> None:
        """Go on where the one before was stopped, until there is nothing more to do."""
        self.recover()
        while not (self.folder / "stop").exists():
            if (self.folder / "pause").exists():
                (self.folder / "idle" / self.name).touch()
                time.sleep(0.02)
                continue
            try:
                self.step()
            except Exception:
                self.fault(traceback.format_exc(limit=-6))
                self.recover()

    def step(self) -> None:
        draw = self.random.random()
        if draw < 0.75:
            self.operate(self.choosing.next(self.world))
        elif draw < 0.9:
            self.look()
        elif draw < 0.99:
            self.fold(self.random.choice([*rows.SHARED, *self.world.agents]))
        else:
            self.fork()

    def operate(self, operation: dict[str, Any]) -> None:
        """Do one thing, and have in the ledger what is known of it at every moment."""
        self.ledger.tell(begin=operation)
        started = time.monotonic()
        try:
            result = self.interrupted_or(lambda: perform(self.actor, operation))
        except KeyboardInterrupt:
            self.ledger.tell(count="interrupted")
            self.recover()
            return
        except DeltaMemError as error:
            self.fault(f"{operation['what']}: {type(error).__name__}: {error}")
            self.recover(failed=True)
            return
        if time.monotonic() - started > LONGEST * self.actor.turns:
            self.fault(f"{operation['what']} took {time.monotonic() - started:.1f} s")
        gone = set(self.world.gone)
        self.ledger.tell(done=result if operation["what"] == "write" else None)
        self.world.apply(operation, result if operation["what"] == "write" else None)
        if operation["what"] == "import":
            Path(operation["path"]).unlink()
        if operation["what"] in ("erase", "delete"):
            self.ledger.tell(count="complete" if result else "pending")
            if result:
                self.search_files(self.world.gone - gone)

    def recover(self, *, failed: bool = False) -> None:
        """Find out whether the last operation was done, by what the database holds; it must be so or so, whole.

        Args:
            failed: Whether it raised an error of ours: then it must not have been done.
        """
        self.world, pending = ledger.replay(self.ledger.path)
        found = rows.stored(self.database, self.name)
        undone = rows.differences(self.world, found)
        if pending is None:
            if undone:
                self.fault(f"differs after a stop between operations: {undone}")
            return
        world = self.world.copy()
        ids = rows.ids_of(pending, found) if pending["what"] == "write" else None
        world.apply(pending, ids)
        done = rows.differences(world, found)
        if undone and (done or failed):
            self.fault(f"neither done nor undone: {pending}: {undone} / {done}")
        settled = bool(undone) and not done
        if pending["what"] == "export":
            settled = False  # it is written again
            Path(pending["path"]).unlink(missing_ok=True)
        self.ledger.tell(settled=settled, ids=ids)
        if settled:
            self.world = world
            if pending["what"] == "import":
                Path(pending["path"]).unlink(missing_ok=True)

    def look(self) -> None:
        """Compare all that there is of this writer with what must be, and search for one of its messages."""
        self.interruptedly(self._look)

    def _look(self) -> None:
        store = self.actor.store
        wrong = rows.differences(self.world, rows.stored(self.database, self.name))
        if wrong:
            self.fault(f"differs: {wrong}")
        agent = self.random.choice([*rows.SHARED, *self.world.agents])
        live = self.world.agents[agent].live() if agent in self.world.agents else []
        if live:
            token = self.random.choice(live)[3].split()[0]
            hits = [record.text.split()[0] for record, _ in store.records.search_text(agent, [token], 5)]
            if hits != [token]:
                self.fault(f"{agent}: a search for {token} gives {hits}")
            if isinstance(self.actor, InMemory):
                recalled = self.actor.mem.agent(agent).recall(token, generate=False, k=3)
                if token not in recalled.text:
                    self.fault(f"{agent}: a recall of {token} gives {recalled.text!r}")
        gone = sorted(self.world.gone)
        if gone:
            token = self.random.choice(gone).split()[0]
            if store.records.search_text(agent, [token], 5):
                self.fault(f"{agent}: a search finds {token}, which is erased")

    def fold(self, agent: str) -> None:
        """Bring a state up to the journal and store it."""
        self.interruptedly(lambda: fold(self.actor.store, agent))

    def fork(self) -> None:
        """Fork this process while its database is open; the new one uses it too, or is told that it cannot."""
        self.forks += 1
        name = f"{self.name}f{os.getpid()}x{self.forks}"
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.environ["PGAPPNAME"] = f"soak-{name}"
            signal.alarm(int(FORKED))  # it ends, whatever it waits for; its ledger then has no end
            told = ledger.Ledger(self.folder / "forks" / f"{name}.jsonl")
            stacks = open(self.folder / "forks" / f"{name}.stacks", "w")  # noqa: SIM115  # as long as the process
            faulthandler.dump_traceback_later(FORKED - 2, file=stacks)
            told.tell(forked=name)
            said = [{"role": "user", "content": f"{name} was here"}]
            try:
                try:
                    told.tell(ended="wrote", ids=self.actor.write(f"fork-{name}", said, "s", True))
                except ForkedError:
                    told.tell(ended="wrote to its own", ids=Store.open(self.url).append(f"fork-{name}", said, "s"))
            except ForkedError:
                told.tell(ended="was refused")
            except BaseException:
                told.tell(fault=traceback.format_exc(limit=-6))
            finally:
                os._exit(0)
        self.ledger.tell(count="forked")
        threading.Thread(target=os.waitpid, args=(child, 0), daemon=True).start()

    def search_files(self, gone: set[str]) -> None:
        """What an erasure said is out of the files is in none of them."""
        # By another process: closing the file in this one would give up the locks that SQLite holds on it here.
        tokens = [text.split()[0][4:] for text in gone]
        files = [str(path) for path in self.folder.glob("memory.db*")]
        if tokens and files:
            patterns = [part for token in tokens for part in ("-e", token)]
            found = subprocess.run(["grep", "-aohF", *patterns, *files], capture_output=True, text=True, check=False)
            if found.stdout:
                self.fault(f"erased, receipt complete, and in the files: {sorted(set(found.stdout.split()))}")

    def interruptedly(self, work: Callable[[], None]) -> None:
        try:
            self.interrupted_or(work)
        except KeyboardInterrupt:
            self.ledger.tell(count="interrupted")
        except DeltaMemError:
            self.fault(traceback.format_exc(limit=-6))

    def interrupted_or(self, work: Callable[[], Any]) -> Any:
        return self.interruptible.run(work) if self.interruptible else work()

    def fault(self, told: str) -> None:
        self.ledger.tell(fault=told)


def fold(store: Store, agent: str) -> None:
    """As a memory folds: from the state that the stored one was folded from, or the beginning."""
    tail = store.states.fold_input(agent, FINGERPRINT)
    if tail is None or not tail.entries:
        return
    state = folded(tail.entries, tail.base.state if tail.base else b"")
    after = tail.base.position if tail.base else 0
    revision = Revision(position=tail.position, epoch=tail.epoch, fingerprint=FINGERPRINT, state=state)
    with contextlib.suppress(UnknownAgentError):  # deleted meanwhile
        store.states.commit(agent, revision, after=after)


def folded(entries: list[Entry], state: bytes = b"") -> bytes:
    """What stands in for a state: eight numbers that hang on every message and on their order."""
    for entry in entries:
        digest = hashlib.sha256(state + f"{entry.session} {entry.id} {entry.text}".encode()).digest()
        numbers = struct.pack("<8f", *(value / 2**32 for value in struct.unpack("<8I", digest)))
        header = {
            "__metadata__": {"modules": "layer"},
            "state": {"dtype": "F32", "shape": [1, 8], "data_offsets": [0, len(numbers)]},
        }
        written = json.dumps(header).encode()
        state = struct.pack("<Q", len(written)) + written + numbers
    return state


def measure(folder: Path, slot: str) -> None:
    """Note every second what this process holds."""
    with open(folder / "held" / f"{slot}-{os.getpid()}.jsonl", "a", buffering=1) as file:
        started = time.monotonic()
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
            held = {
                "second": time.monotonic() - started,
                "bytes": pages * resource.getpagesize(),
                "threads": threading.active_count(),
                "files": len(os.listdir("/dev/fd")),
            }
            file.write(json.dumps(held) + "\n")
            time.sleep(1)


def await_the_killed(url: str, slot: str) -> None:
    """Until the server has noticed that the process before was killed: what it was sent may still be committed."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE :of AND application_name <> :own")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        while connection.scalar(query, {"of": f"soak-{slot}-%", "own": os.environ["PGAPPNAME"]}):
            time.sleep(0.01)
    engine.dispose()


def main(url: str, folder: Path, slot: str, seed: int, writers: int, model: bool) -> None:
    interruptible = Interruptible()
    signal.signal(signal.SIGINT, interruptible)
    stacks = open(folder / "held" / f"{slot}-{os.getpid()}.stacks", "w")  # noqa: SIM115  # as long as the process
    faulthandler.register(signal.SIGUSR1, file=stacks)
    if not url.startswith("sqlite"):
        os.environ["PGAPPNAME"] = f"soak-{slot}-{os.getpid()}"
        await_the_killed(url, slot)
    actor: Actor
    if model:
        from deltamem_agents import DeltaMem

        mem = DeltaMem.open("tiny", url=url, embedder=False)
        actor, close = InMemory(mem), mem.close
    else:
        store = Store.open(url)
        actor, close = OnStore(store), store.close
    threading.Thread(target=measure, args=(folder, slot), daemon=True).start()  # what is loaded at the beginning counts
    database = open_database(url, None)  # what the rows are read with
    database.enable_retries()
    made = [Writer(f"w{slot}.{i}", database, url, folder, actor, seed + i) for i in range(writers)]
    made[0].interruptible = interruptible
    threads = [threading.Thread(target=writer.live) for writer in made[1:]]
    for thread in threads:
        thread.start()
    made[0].live()
    for thread in threads:
        thread.join()
    close()
    database.close()


if __name__ == "__main__":
    url, where, slot, seed, writers, *model = sys.argv[1:]
    main(url, Path(where), slot, int(seed), int(writers), bool(model))
