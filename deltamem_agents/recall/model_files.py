"""Facts about a sentence-transformers model from its files, read without loading the model and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

LARGEST_LIMIT = 1_000_000  # tokens; a tokenizer without a limit reports 10^30
SAMPLES, SAMPLE = 16, 65_536  # places sampled in a file of weights, and bytes at each
_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_VOCABULARY = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


def cached_folder(source: str | Path) -> Path | None:
    """The folder of a model: a local folder, or that of a downloaded hub id; None if there is none."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(str(source), "modules.json")
    except HFValidationError:  # no hub id
        return None
    return Path(found).parent if isinstance(found, str) else None


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing or is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def text_limit(folder: Path) -> tuple[int, Callable[[], Any]] | None:
    """The most tokens that a model reads, and a function that loads its tokenizer; None if the files do not say."""
    first = folder / _first_module(folder)
    own = next((path for name in _CONFIGS if (path := first / name).is_file()), first / _CONFIGS[0])
    told = [read_config(own).get("max_seq_length")]
    if not _is_limit(told[0]):
        config = read_config(first / "config.json")
        told = [
            read_config(first / "tokenizer_config.json").get("model_max_length"),
            _positions(config),
            _positions(config.get("text_config") or {}),
        ]
    limits = [each for each in told if isinstance(each, int) and _is_limit(each)]
    file = first / "tokenizer.json"
    if not limits or not file.is_file():
        return None
    changed = file.stat()
    return min(limits), partial(_tokenizer, file, changed.st_mtime_ns, changed.st_size)


def folder_digest(folder: Path) -> str:
    """A digest that identifies the model in a folder: of samples of its weights, its vocabulary and its modules."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        weights = path.suffix in _WEIGHTS
        module = path.parent != folder and path.name == "config.json"
        if name.startswith(".") or not path.is_file() or not (weights or module or path.name in _VOCABULARY):
            continue
        size = path.stat().st_size
        digest.update(f"{name} {size} ".encode())
        with path.open("rb") as file:
            for place in range(SAMPLES):
                file.seek(max(size - SAMPLE, 0) * place // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
                if size <= SAMPLE:
                    break
    return digest.hexdigest()


def _first_module(folder: Path) -> str:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return str(modules[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _positions(config: dict[str, Any]) -> int | None:
    """The number of positions that texts can use; some models reserve two for padding (512 of 514)."""
    found = config.get("max_position_embeddings")
    return found - found % 8 if isinstance(found, int) else None


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST_LIMIT


@lru_cache(8)
def _tokenizer(file: Path, _changed: int, _size: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
