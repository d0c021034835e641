"""Small files that would take much memory or disk: each is refused, or read within bounds."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.store import Store

ADDED = 256  # MiB that reading a file of less than 1 MiB may take
DISK = 300  # MiB of database that it may make

MEASURE = """
import sys
from pathlib import Path

def status(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))

kind, good, *files = sys.argv[1:]
if kind == "archive":
    from deltamem_agents.store import Store
    def use(path):
        database = Path(path).with_suffix(".db")
        with Store.open(f"sqlite:///{database}") as store:
            store.import_(Path(path), "a")
else:
    from deltamem_agents.core import load_adapter as use
from deltamem_agents.errors import DeltaMemError
use(good)  # what is imported on the first use is no part of what a file takes
for path in files:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, outcome = status("VmRSS"), "read"
    try:
        use(path)
    except DeltaMemError as error:
        outcome = "refused"
        assert len(str(error)) < 2000
    disk = sum(each.stat().st_size for each in Path(path).parent.glob(Path(path).stem + ".db*")) >> 20
    print(Path(path).stem, outcome, int(status("VmHWM") - before), disk, flush=True)
"""


def measured(kind: str, good: Path, files: Iterable[Path]) -> dict[str, tuple[str, int, int]]:
    """What became of each file, and the MiB of memory and disk that it took."""
    command = [sys.executable, "-c", MEASURE, kind, str(good), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (outcome, int(memory), int(disk)) for name, outcome, memory, disk in rows}


def message(position: int = 1, content: str = "hello", **more: Any) -> dict[str, Any]:
    line = {"position": position, "id": str(position), "session": "s", "role": "user", "content": content}
    return line | {"metadata": {}, "created_at": "2026-01-01T00:00:00+00:00", "left_at": None} | more


def line(**more: Any) -> bytes:
    return json.dumps(message(**more), ensure_ascii=False).encode() + b"\n"


def put(path: Path, members: dict[str, bytes], **counts: int) -> Path:
    """An archive whose manifest fits its members."""
    told = {"format": "deltamem-agent", "version": 1, "agent": "a", "head": 1 << 40}
    told |= {"messages": 1, "rollbacks": 0, "revisions": 0, "embeddings": 0} | counts
    everything = {"messages.jsonl": line(), "rollbacks.jsonl": b"", "revisions.jsonl": b""} | members
    sums = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in everything.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in everything.items():
            archive.writestr(name, data)
        archive.writestr("manifest.json", json.dumps(told | {"members": sums} | counts))
    return path


def tensors(header: dict[str, Any], size: int) -> bytes:
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(size)


def state(rows: int) -> bytes:
    names = ",".join(map(str, range(rows)))
    header = {"__metadata__": {"modules": f"l.* {names}"}}
    shape = [rows, 64, 64]
    return tensors(
        header | {"state": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * rows * 4096]}}, 4 * rows * 4096
    )


def embeddings(rows: int, dim: int) -> bytes:
    at = 16 * rows
    header = {
        "__metadata__": {"model": "m"},
        "position": {"dtype": "I64", "shape": [rows], "data_offsets": [0, 8 * rows]},
        "chunk": {"dtype": "I64", "shape": [rows], "data_offsets": [8 * rows, at]},
        "vector": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [at, at + 4 * rows * dim]},
    }
    return tensors(header, at + 4 * rows * dim)


def revisions(count: int, member: Callable[[int], str]) -> bytes:
    lines = [
        {"position": i + 1, "parent": i, "fingerprint": "f", "member": member(i), "created_at": "2026-01-01T00:00:00Z"}
        for i in range(count)
    ]
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def raw(metadata: bytes) -> bytes:
    return line().replace(b'"metadata": {}', b'"metadata": ' + metadata)


def lying(path: Path) -> Path:
    """A member that unpacks to more than the central directory says."""
    put(path, {"messages.jsonl": line(content="a" * 40_000_000)})
    data = bytearray(path.read_bytes())
    size = struct.pack("<I", len(line(content="a" * 40_000_000)))
    at = data.index(b"PK\x01\x02")
    data[at:] = data[at:].replace(size, struct.pack("<I", 100))
    path.write_bytes(bytes(data))
    return path


def overlapping(path: Path) -> Path:
    """Forty entries for one member's bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("messages.jsonl", line(content="a" * 1_000_000))
        for number in range(40):
            info = zipfile.ZipInfo(f"states/{number:06d}.safetensors")
            first = archive.filelist[0]
            info.compress_type, info.CRC, info.header_offset = first.compress_type, first.CRC, first.header_offset
            info.compress_size, info.file_size = first.compress_size, first.file_size
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
        archive.writestr("manifest.json", "{}")
    return path


def bombs(folder: Path) -> list[Path]:
    made: dict[str, Callable[[Path], Path]] = {
        "wide_list": lambda path: put(path, {"messages.jsonl": raw(b'{"a": [' + b"[]," * 12_000_000 + b"0]}")}),
        "wide_mapping": lambda path: put(
            path, {"messages.jsonl": raw(b"{" + b",".join(b'"%d":{"":0}' % i for i in range(100_000)) + b"}")}
        ),
        "values": lambda path: put(path, {"messages.jsonl": raw(b'{"a": [' + b"{}," * 5_000_000 + b"0]}")}),
        "deep": lambda path: put(path, {"messages.jsonl": raw(b"[" * 20_000_000)}),
        "long_text": lambda path: put(path, {"messages.jsonl": line(content="a" * 200_000_000)}),
        "text": lambda path: put(path, {"messages.jsonl": line(content="a b " * 1_000_000)}),
        "astral_text": lambda path: put(path, {"messages.jsonl": line(content="🚀" * 5_000_000)}),
        "escaped_text": lambda path: put(
            path, {"messages.jsonl": line().replace(b"hello", b"\\ud83d\\ude80" * 1_500_000)}
        ),
        "metadata_text": lambda path: put(path, {"messages.jsonl": line(metadata={"a": "x" * 20_000_000})}),
        "many": lambda path: put(
            path, {"messages.jsonl": b"".join(line(position=i) for i in range(1, 150_001))}, messages=150_000
        ),
        "many_empty_lines": lambda path: put(path, {"messages.jsonl": b"{}\n" * 20_000_000}),
        "large_each": lambda path: put(
            path,
            {"messages.jsonl": b"".join(line(position=i, metadata={"a": "x" * 3_000_000}) for i in range(1, 20))},
            messages=19,
        ),
        "one_state_often": lambda path: put(
            path,
            {
                "states/000000.safetensors": state(2000),
                "revisions.jsonl": revisions(40, lambda _: "states/000000.safetensors"),
            },
            revisions=40,
        ),
        "large_state": lambda path: put(
            path,
            {
                "states/000000.safetensors": state(4000),
                "revisions.jsonl": revisions(1, lambda _: "states/000000.safetensors"),
            },
            revisions=1,
        ),
        "embeddings": lambda path: put(
            path, {"embeddings/000000.safetensors": embeddings(4096, 4096)}, embeddings=4096
        ),
        "header": lambda path: put(
            path,
            {
                "states/000000.safetensors": struct.pack("<Q", 60_000_000) + b"[" * 60_000_000,
                "revisions.jsonl": revisions(1, lambda _: "states/000000.safetensors"),
            },
            revisions=1,
        ),
        "manifest": lambda path: put(path, {}, odd=[[]] * 3_000_000),  # type: ignore[arg-type]
        "members": lambda path: put(path, {f"states/{i:06d}.safetensors": b"" for i in range(3_000)}),
        "lying": lying,
        "overlapping": overlapping,
    }
    return [make(folder / f"{name}.zip") for name, make in made.items()]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by Linux's /proc")
@pytest.mark.slow
def test_archives(tmp_path: Path) -> None:
    files = bombs(tmp_path)
    assert all(path.stat().st_size < 1 << 20 for path in files), [
        path.name for path in files if path.stat().st_size >> 20
    ]
    with Store.open("sqlite://") as store:
        store.append("a", [{"role": "user", "content": "hello"}], "s")
        store.export("a", tmp_path / "good.zip")

    found = measured("archive", tmp_path / "good.zip", files)

    assert found.keys() == {path.stem for path in files}
    assert {name: each for name, each in found.items() if each[1] > ADDED or each[2] > DISK} == {}
    assert {name for name, each in found.items() if each[0] == "read"} <= {"text", "many", "members"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by Linux's /proc")
@pytest.mark.slow
def test_adapters(tmp_path: Path) -> None:
    from deltamem_agents import tiny

    contents = {
        "wide": b'{"layers": [' + b"[]," * 300_000 + b"0]}",
        "mappings": b'{"layers": [' + b'{"":0},' * 140_000 + b"0]}",
        "deep": b"[" * 1_000_000,
        "sixty_megabytes": b'{"layers": [' + b"0," * 30_000_000 + b"0]}",
        "text": b'{"model_type": "' + "🚀".encode() * 250_000 + b'"}',
    }
    files = []
    for name, content in contents.items():
        for file in ("deltamem_adapter.json", "deltamem_calibration.json", "delta_mem_config.json"):
            folder = tmp_path / f"{name}-{file.partition('.')[0]}"
            folder.mkdir()
            for source in (tiny.FOLDER / "adapter").iterdir():
                if file != "delta_mem_config.json":
                    (folder / source.name).write_bytes(source.read_bytes())
            (folder / file).write_bytes(content)
            files.append(folder)

    found = measured("adapter", tiny.FOLDER / "adapter", files)

    assert len(found) == len(files)
    assert {name: each for name, each in found.items() if each[0] == "read" or each[1] > ADDED} == {}
