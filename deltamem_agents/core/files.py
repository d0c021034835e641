"""Adapter files: ours (`deltamem_adapter.json`, `deltamem_adapter.safetensors`) and the authors', from folder or hub.

Nothing is unpickled. A tensor is read only after its name, dtype and shape have been checked against the config.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deltamem_agents import arguments, bounded_json
from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.calibration import Calibration
from deltamem_agents.core.config import DeltaMemConfig
from deltamem_agents.core.families import LayerShape
from deltamem_agents.core.released import AUTHORS_CONFIG, AUTHORS_WEIGHTS, convert_config, convert_weights
from deltamem_agents.errors import AdapterFileError, ConfigError, kind_of, shown

CONFIG_FILE = "deltamem_adapter.json"
WEIGHTS_FILE = "deltamem_adapter.safetensors"
CALIBRATION_FILE = "deltamem_calibration.json"  # optional
TEMPLATE_FILE = "chat_template.jinja"  # optional
TEMPLATE_BYTES = 1 << 20  # limit on it
MAX_FILE_BYTES = 4 << 30
HEADER_BYTES = 8 << 20  # limit on the list of tensor names and shapes
SIDE = 1 << 22  # limit on one side of a tensor
_LAYER = re.compile(r"[0-9]{1,5}")
_PICKLED = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.([A-Z][a-z0-9]*|BFloat16)Storage|"
    r"torch\.storage\.(Untyped|Typed)Storage|collections\.OrderedDict|torch\.(bfloat16|float16|float32|float64)"
)
_FLOATS = {"F32", "F16", "BF16", "F64"}


def load_adapter(source: str | Path, *, revision: str | None = None) -> Adapter:
    """Load an adapter, float32, on the CPU.

    Args:
        source: A folder with our files or the authors', or a hub id such as "org/name".
        revision: Branch, tag or commit on the hub.

    Raises:
        AdapterFileError: The adapter is not found, truncated, malformed, or the file is not an adapter.
        ConfigError: An option is out of range, or an argument has the wrong type.
        UnsupportedModelError: The authors' file uses an option that this package does not support.
    """
    folder = _folder(source, revision)
    if (folder / CONFIG_FILE).is_file():
        return _load_ours(folder)
    if (folder / AUTHORS_CONFIG).is_file():
        return _load_authors(folder)
    raise AdapterFileError(f"no adapter in {str(folder)!r}; it needs {CONFIG_FILE} or {AUTHORS_CONFIG}")


def save_adapter(adapter: Adapter, folder: str | Path) -> Path:
    """Write an adapter's files, each atomically; the config last, since a folder without one is not an adapter.

    Raises:
        ConfigError: An argument has the wrong type.
        AdapterFileError: The folder cannot be written.
    """
    arguments.instance(adapter, "adapter", Adapter)
    target = arguments.path(folder, "folder")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.state_dict().items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        partial = target / f".{WEIGHTS_FILE}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, target / WEIGHTS_FILE)
        if adapter.calibration == Calibration():
            (target / CALIBRATION_FILE).unlink(missing_ok=True)  # left by another adapter
        else:
            _put(target / CALIBRATION_FILE, json.dumps(adapter.calibration.as_dict(), indent=1) + "\n")
        if adapter.chat_template is None:
            (target / TEMPLATE_FILE).unlink(missing_ok=True)
        else:
            _put(target / TEMPLATE_FILE, adapter.chat_template)
        _put(target / CONFIG_FILE, adapter.config.to_json())
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(f"cannot write adapter to {str(target)!r}: {error}; choose a writable folder") from error
    return target


def _put(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _folder(source: str | Path, revision: str | None) -> Path:
    if not isinstance(source, str | Path):
        raise ConfigError(f"adapter is {shown(source)}; give a folder, or a hub id such as 'org/name'")
    if revision is not None and not isinstance(revision, str):
        raise ConfigError(f"revision is {shown(revision)}; give the name of a branch, tag or commit")
    name = str(source)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise AdapterFileError(
            f"no adapter folder {shown(name)} ({type(error).__name__}); give a folder, or a hub id"
        ) from error
    if exists or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise AdapterFileError(f"no adapter folder {shown(name)}; give a folder, or a hub id such as 'org/name'")
    from huggingface_hub import snapshot_download

    try:
        wanted = [CONFIG_FILE, WEIGHTS_FILE, CALIBRATION_FILE, TEMPLATE_FILE, AUTHORS_CONFIG, AUTHORS_WEIGHTS]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub client raises errors of several libraries
        raise AdapterFileError(
            f"cannot fetch adapter {name!r} from the hub: {type(error).__name__}; check the name and the network, or "
            "give a folder"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    _check_size(path)
    try:
        data = bounded_json.read(path)
    except OSError as error:
        raise AdapterFileError(f"cannot read {str(path)!r}: {error.strerror}; fetch the adapter again") from error
    except ValueError as error:
        raise AdapterFileError(f"{str(path)!r} cannot be read as JSON: {error}; fetch the adapter again") from error
    if not isinstance(data, dict):
        raise AdapterFileError(f"{str(path)!r} holds {kind_of(data)}, not a JSON object; fetch it again")
    return data


def _check_size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise AdapterFileError(f"cannot read {str(path)!r}: {error.strerror}; fetch the adapter again") from error
    if not path.is_file():
        raise AdapterFileError(f"{str(path)!r} is a folder or a device, not a file; fetch the adapter again")
    if size > MAX_FILE_BYTES:
        raise AdapterFileError(f"{str(path)!r} has {size} bytes, the limit is {MAX_FILE_BYTES}; it is not an adapter")
    return size


def _load_ours(folder: Path) -> Adapter:
    data = _read_json(folder / CONFIG_FILE)
    try:
        config = DeltaMemConfig.from_dict(data)
    except TypeError as error:
        raise ConfigError(f"{CONFIG_FILE}: {error}") from error
    path = folder / WEIGHTS_FILE
    _check_header(path, _check_size(path))
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  (not a dict)
            sizes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            odd = sorted({one.get_dtype() for one in slices.values()} - _FLOATS)
            if odd:
                raise AdapterFileError(f"{str(path)!r} holds {odd[0]} tensors; an adapter has floats, fetch it again")
            adapter = _empty_adapter(config, sizes, path)
            tensors = {name: handle.get_tensor(name) for name in sizes}
    except AdapterFileError:
        raise  # AdapterFileError is an OSError, so the next clause would catch it
    except (SafetensorError, OSError, RuntimeError, TypeError, OverflowError) as error:
        raise AdapterFileError(f"{str(path)!r} is truncated or malformed: {error}; fetch the adapter again") from error
    adapter.calibration = _load_calibration(folder / CALIBRATION_FILE)
    adapter.chat_template = _load_template(folder / TEMPLATE_FILE)
    return _fill(adapter, tensors, path)


def _check_header(path: Path, size: int) -> None:
    """Refuse a safetensors file whose header is longer than an adapter's can be, or than the file itself."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise AdapterFileError(f"cannot read {str(path)!r}: {error.strerror}; fetch the adapter again") from error
    if length > min(HEADER_BYTES, size):
        raise AdapterFileError(
            f"{str(path)!r} is truncated or malformed: {size} bytes with a header of {length}, the limit is "
            f"{HEADER_BYTES}; fetch the adapter again"
        )


def _load_calibration(path: Path) -> Calibration:
    """Read the calibration stored beside an adapter; the default if there is none."""
    if not path.exists():
        return Calibration()
    data = _read_json(path)
    try:
        return Calibration.from_dict(data)
    except ValueError as error:
        raise AdapterFileError(f"{str(path)!r}: {error}; delete it, or fetch it again") from error


def _load_template(path: Path) -> str | None:
    """Read the chat template stored beside an adapter, if there is one."""
    if not path.exists():
        return None
    if _check_size(path) > TEMPLATE_BYTES:
        raise AdapterFileError(f"{str(path)!r} has more than {TEMPLATE_BYTES} bytes; fetch the adapter again")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterFileError(f"cannot read {str(path)!r}: {error}; fetch the adapter again") from error


def _load_authors(folder: Path) -> Adapter:
    options = _read_json(folder / AUTHORS_CONFIG)
    path = folder / AUTHORS_WEIGHTS
    try:
        config = convert_config(options)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{AUTHORS_CONFIG}: {error}") from error
    loaded = _torch_file(path)
    _check_shapes({name: tuple(each.shape) for name, each in loaded.items()}, path)
    config, tensors = convert_weights(config, loaded, str(path))
    adapter = _empty_adapter(config, {name: tuple(each.shape) for name, each in tensors.items()}, path)
    return _fill(adapter, tensors, path)


def _torch_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pt`` file, memory-mapped, after checking its index."""
    size = _check_size(path)
    again = "fetch the adapter again"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(each.compress_type != zipfile.ZIP_STORED for each in entries) or (
                sum(each.file_size for each in entries) > size
            ):
                raise AdapterFileError(f"{str(path)!r} holds compressed or overlapping entries; {again}")
            for each in entries:
                if each.filename.endswith(".pkl"):
                    _check_pickle(archive.read(each) if each.file_size <= HEADER_BYTES else b"", size, path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (AdapterFileError, MemoryError):
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others
        raise AdapterFileError(f"{str(path)!r} is truncated or not a plain tensor file: {error}; {again}") from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str)
        and isinstance(each, Tensor)
        and each.is_floating_point()
        and each.layout == torch.strided
        and each.numel() * each.element_size() <= size
        for name, each in loaded.items()
    ):
        raise AdapterFileError(f"{str(path)!r} is not a dict of plain float tensors; {again}")
    return dict(loaded)


def _check_pickle(data: bytes, size: int, path: Path) -> None:
    """Refuse a pickle that names anything but tensors, or holds numbers that no tensor of the file can have.

    Other things that ``torch.load`` allows can use up the memory, such as ``bytearray`` of a large number.
    """
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(data):
            named = str(argument).split(" ") if operation.name == "GLOBAL" else texts[-2:]
            if operation.name in ("GLOBAL", "STACK_GLOBAL") and not _PICKLED.fullmatch(".".join(named)):
                raise ValueError(f"it names {'.'.join(named)[:60]}")
            if isinstance(argument, int) and operation.name.startswith(("INT", "BININT", "LONG")) and argument > size:
                raise ValueError(f"it holds the number {shown(argument)}")
            if isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError, OverflowError, UnicodeError) as error:
        raise AdapterFileError(
            f"{str(path)!r} is truncated or not a plain tensor file: {error}; fetch the adapter again"
        ) from error


def _check_shapes(sizes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    for name, shape in sizes.items():
        if len(shape) > 2 or not all(0 < side <= SIDE for side in shape):
            raise AdapterFileError(
                f"{str(path)!r}: tensor {shown(name)} has shape {shown(shape)}; an adapter's have up to two sides of 1 "
                f"to {SIDE}, fetch the adapter again"
            )


def _empty_adapter(config: DeltaMemConfig, sizes: Mapping[str, tuple[int, ...]], path: Path) -> Adapter:
    """Make an adapter with parameters of the shapes in the file, after checking these against the config."""
    _check_shapes(sizes, path)
    indices = _layer_indices(config, sizes, path)
    shapes = {}
    for index in indices:
        hidden = _dimension(sizes, f"layers.{index}.memory", 1, path)
        if config.hidden_size not in (None, hidden):
            raise AdapterFileError(
                f"{str(path)!r}: layer {index} has width {hidden}, the config says {config.hidden_size}; fetch it again"
            )
        outputs = {
            name: _dimension(sizes, f"layers.{index}.corrections.{name}", 0, path) for name in config.corrections
        }
        shapes[index] = LayerShape(hidden, outputs)
    with torch.device("meta"):
        adapter = Adapter(config, shapes)
    wanted = {name: tuple(each.shape) for name, each in adapter.state_dict().items()}
    for name in sorted(wanted.keys() | sizes.keys()):
        if wanted.get(name) != sizes.get(name):
            raise AdapterFileError(
                f"{str(path)!r}: tensor {shown(name)} has shape {sizes.get(name)}, the config asks for "
                f"{wanted.get(name)}; the two files do not belong together, fetch both again"
            )
    return adapter


def _layer_indices(config: DeltaMemConfig, sizes: Mapping[str, tuple[int, ...]], path: Path) -> list[int]:
    found = {name.split(".")[1] for name in sizes if name.startswith("layers.")}
    if not found or not all(_LAYER.fullmatch(each) for each in found):
        raise AdapterFileError(f"{str(path)!r} names no adapter layers; fetch the adapter again")
    indices = sorted(map(int, found))
    wanted = list(config.layers) if config.layers is not None else list(range(config.num_layers or len(indices)))
    if indices != wanted:
        raise AdapterFileError(
            f"{str(path)!r} has layers {shown(indices)}, the config asks for {shown(wanted)}; "
            "the two files do not belong together"
        )
    return indices


def _dimension(sizes: Mapping[str, tuple[int, ...]], name: str, axis: int, path: Path) -> int:
    size = sizes.get(name, ())
    if len(size) != 2:
        raise AdapterFileError(f"{str(path)!r}: tensor {name!r} is missing or not a matrix; fetch the adapter again")
    return size[axis]


def _fill(adapter: Adapter, tensors: Mapping[str, Tensor], path: Path) -> Adapter:
    values = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    broken = [name for name, tensor in values.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise AdapterFileError(f"{str(path)!r}: tensor {broken[0]!r} holds NaN or infinity; fetch the adapter again")
    adapter.load_state_dict(values, assign=True)
    return adapter.requires_grad_(True)
