"""An export writes over nothing that is there unless that is asked for, and never over its own database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import Store

NAMES: dict[str, Callable[[Path], Path]] = {
    "itself": lambda path: path,
    "relative": lambda path: Path(os.path.relpath(path)),
    "dots": lambda path: path.parent / "." / ".." / path.parent.name / path.name,
    "the log": lambda path: Path(f"{path}-wal"),
    "its index": lambda path: Path(f"{path}-shm"),
    "a journal that does not exist": lambda path: Path(f"{path}-journal"),
    "a symlink": lambda path: made(path.parent / "link", path.symlink_to, path),
    "a hard link": lambda path: made(path.parent / "hard", path.hardlink_to, path),
    "a folder's symlink": lambda path: folder(path) / path.name,
}


def made(link: Path, _: object, path: Path) -> Path:
    os.symlink(path, link) if link.name == "link" else os.link(path, link)
    return link


def folder(path: Path) -> Path:
    link = path.parent.parent / f"{path.parent.name}-link"
    link.symlink_to(path.parent)
    return link


@pytest.mark.parametrize("force", [False, True], ids=["", "overwrite"])
@pytest.mark.parametrize("kind", ["url", "relative url", "symlinked url", "engine"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_the_database_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Callable[[Path], Path], kind: str, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "memory.db"
    Store.open(f"sqlite:///{path}").close()
    url = "sqlite:///memory.db" if kind == "relative url" else f"sqlite:///{path}"
    if kind == "symlinked url":
        (tmp_path / "other.db").symlink_to(path)
        url = f"sqlite:///{tmp_path}/other.db"
    engine = create_engine(url) if kind == "engine" else None
    with Store.open(None if engine else url, engine=engine) as store:
        store.append("alice", [{"role": "user", "content": "Rex"}], "s")
        with pytest.raises(ConfigError, match="database itself"):
            store.export("alice", name(path), overwrite=force)
        store.append("alice", [{"role": "user", "content": "Tom"}], "s")
    with Store.open(f"sqlite:///{path}") as store:
        assert [entry.text for entry in store.live("alice")] == ["Rex", "Tom"]
    if engine is not None:
        engine.dispose()


def test_a_file_that_is_there_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/memory.db") as store:
        store.append("alice", [{"role": "user", "content": "Rex"}], "s")
        target = tmp_path / "alice.zip"
        target.write_text("precious")
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        for each in (target, tmp_path / "dangling", tmp_path):
            with pytest.raises(ConfigError, match="overwrite=True"):
                store.export("alice", each)
        assert target.read_text() == "precious"
        assert store.export("alice", target, overwrite=True) == 1
        assert store.export("alice", tmp_path / "new.zip") == 1
