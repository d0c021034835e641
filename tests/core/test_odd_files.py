"""Adapters and calibrations of strangers: odd values, deep and huge JSON, other things in place of files."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from deltamem_agents.core import Adapter, DeltaMemConfig, load_adapter, new_adapter, save_adapter
from deltamem_agents.core.calibration import Calibration, Logistic
from deltamem_agents.errors import DeltaMemError

ODD = [
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "1" * 5000,
    "1e999",
    "NaN",
    "-Infinity",
    "4611686018427387904",
    "[4611686018427387904, 0]",
    "[[]]",
    '["q", ["o"]]',
    "[null]",
    "{}",
    '{"a": [1]}',
    '""',
    '"x"',
    '"\\ud800"',
    "[" * 100_000,
    "[" * 50_000 + "]" * 50_000,
]
FILES = ("deltamem_adapter.json", "deltamem_adapter.safetensors", "deltamem_calibration.json")
AUTHORS = ("delta_mem_config.json", "delta_mem_adapter.pt")


@pytest.fixture(scope="module")
def ours(backbone: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapter = new_adapter(backbone(), DeltaMemConfig(rank=2))
    adapter.calibration = Calibration(state=Logistic(bias=0.5), full=80.0)
    return save_adapter(adapter, tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(golden_folder: Path) -> Path:
    return golden_folder / "qwen3-tsw" / "adapter"


def loaded(folder: Path, what: str) -> Adapter | None:
    """The adapter, or None for an error of ours; anything else fails."""
    try:
        return load_adapter(folder)
    except DeltaMemError as error:
        assert len(str(error)) < 2_000, what
        return None
    except Exception as error:
        raise AssertionError(f"{what}: {error!r:.300}") from error


def with_value(path: Path, name: str, odd: str) -> None:
    """The file with one of its values in another's place, written as it is."""
    options = json.loads(path.read_text()) | {name: "@"}
    path.write_text(json.dumps(options).replace('"@"', odd))


@pytest.mark.parametrize("name", [*(each.name for each in fields(DeltaMemConfig)), "format", "version", "unknown"])
def test_our_options(ours: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(ours, tmp_path / "a"))
    for odd in ODD:
        shutil.copy(ours / FILES[0], folder)
        with_value(folder / FILES[0], name, odd)
        loaded(folder, f"{name} = {odd[:40]}")


def test_the_authors_options(theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "a"))
    names = [*json.loads((theirs / AUTHORS[0]).read_text()), "unknown", "target_layers", "delta_heads"]
    for number, name in enumerate(names):
        for odd in ODD[number % 4 :: 4]:
            shutil.copy(theirs / AUTHORS[0], folder)
            with_value(folder / AUTHORS[0], name, odd)
            loaded(folder, f"{name} = {odd[:40]}")


@pytest.mark.parametrize("name", ["state", "records", "missed", "full"])
def test_calibrations(ours: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(ours, tmp_path / "a"))
    parts = [f'{{"bias": {odd}, "slope": 1, "fullness": 0}}' for odd in ODD] if name in ("state", "records") else []
    for odd in [*ODD, *parts]:
        shutil.copy(ours / FILES[2], folder)
        with_value(folder / FILES[2], name, odd)
        adapter = loaded(folder, f"{name} = {odd[:40]}")
        if adapter is not None:  # and what it says is a confidence
            found = adapter.calibration
            for gain in (-1.0, 0.0, 0.5, 1.0):
                assert 0 <= found.state(gain, 1e9) <= 1 and 0 <= found.records(gain) <= 1


@pytest.mark.parametrize("content", [*ODD, "", "\0", "\ufeff{}", '{"a": 1, "a"'])
@pytest.mark.parametrize("name", [FILES[0], FILES[2]])
def test_whole_files(ours: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = Path(shutil.copytree(ours, tmp_path / "a"))
    (folder / name).write_text(content)
    assert loaded(folder, name) is None


@pytest.mark.parametrize("name", [*FILES, *AUTHORS])
def test_a_folder_a_device_and_nothing_in_place_of_a_file(ours: Path, theirs: Path, tmp_path: Path, name: str) -> None:
    source = ours if name in FILES else theirs
    for case, make in enumerate((Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: None)):
        folder = Path(shutil.copytree(source, tmp_path / str(case)))
        (folder / name).unlink()
        make(folder / name)
        found = loaded(folder, f"{name} {case}")
        assert (found is not None) is (name == FILES[2] and case == 2)


@pytest.mark.parametrize(
    "header",
    [
        {"layers.0.memory": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}},
        {"layers.0.memory": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}},
        {"layers.0.memory": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 0]}},
        {"layers.0.memory": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}},
        {"layers.0.memory": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}},
        {f"layers.{'9' * 5000}.memory": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"layers.٣.memory": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"layers.0.memory": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}},
        {"layers.0.memory": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {},
    ],
)
def test_headers_of_weights(ours: Path, tmp_path: Path, header: Any) -> None:
    folder = Path(shutil.copytree(ours, tmp_path / "a"))
    data = json.dumps(header).encode()
    (folder / FILES[1]).write_bytes(struct.pack("<Q", len(data)) + data + b"\0" * 8)
    assert loaded(folder, str(header)[:60]) is None


@pytest.mark.parametrize("length", [0, 1, 2**24, 2**40, 2**63, 2**64 - 1])
def test_lengths_of_headers(ours: Path, tmp_path: Path, length: int) -> None:
    folder = Path(shutil.copytree(ours, tmp_path / "a"))
    (folder / FILES[1]).write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
    assert loaded(folder, str(length)) is None


class Huge:
    def __reduce__(self) -> Any:
        return bytearray, (1 << 40,)


@pytest.mark.parametrize("value", [Huge(), {"a": Huge()}, 1 << 300, "x", [[]] * 1000, None])
def test_other_things_in_the_authors_weights(theirs: Path, tmp_path: Path, value: Any) -> None:
    """``torch.load`` alone would make the bytes of the first."""
    folder = Path(shutil.copytree(theirs, tmp_path / "a"))
    with zipfile.ZipFile(folder / AUTHORS[1]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / AUTHORS[1], "w") as archive:
        for name, data in members.items():
            archive.writestr(name, pickle.dumps(value, protocol=2) if name.endswith("data.pkl") else data)
    assert loaded(folder, repr(value)[:40]) is None


@pytest.mark.parametrize(
    "source", ["", "\0", "~nobody-here/x", "a/b/c", "x" * 5000, "\ud800", Path("/"), Path("absent")]
)
def test_places_that_are_none(source: Any) -> None:
    assert loaded(source, repr(source)) is None
