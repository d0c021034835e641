"""`SentenceTransformerEmbedder`: a sentence-transformers model with its limit, its prompts and an identifying name.

The model is loaded when it is first used. Its limit, prompts and a digest of its weights are read from its files,
without the library and without torch.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.errors import ConfigError, EmbedderError, MissingExtraError
from deltamem_agents.libraries import without_progress_bars
from deltamem_agents.recall.cutting import counted_by, in_parts
from deltamem_agents.recall.embedding import failed, unit_rows
from deltamem_agents.recall.model_files import LARGEST_LIMIT, cached_folder, folder_digest, read_config, text_limit
from deltamem_agents.recall.naming import attributes_of
from deltamem_agents.recall.prompts import Prompts, prompts_of
from deltamem_agents.recall.records import Measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the published file
BUNDLED_DIM = 384
BATCH = 32


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded when it is first used; threads take turns.

    Queries and texts get the prompts that the model's configuration or card states; see `prompts`. A text beyond the
    model's limit is embedded in parts.

    Args:
        source: A folder, a hub id, or a loaded ``SentenceTransformer``, which needs a name.
        name: Stored with the vectors. By default the hub id, or the folder's name and a digest of its weights; followed
            by a digest of the prompts, if there are any.
        sha256: The required SHA-256 of the folder's ``model.safetensors``.
        device: The device that it runs on; the CPU leaves the accelerator to the backbone.

    Raises:
        ConfigError: A loaded model is given without a name.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self, source: str | Path | Any, *, name: str | None = None, sha256: str | None = None, device: str = "cpu"
    ) -> None:
        loaded = not isinstance(source, str | Path)
        if loaded and name is None:
            raise ConfigError("a loaded embedder needs a name, which is stored with its vectors; give name=…")
        if not loaded and find_spec("sentence_transformers") is None:
            raise MissingExtraError(
                f"embedder {str(source)!r} needs sentence-transformers; install deltamem-agents[retrieval]"
            )
        self._source = name or "" if loaded else source
        self._given = name
        self._sha256 = sha256
        self._device = device
        self._lock = threading.RLock()
        self._is_loaded = loaded
        self._model: Any = source if loaded else None
        self._dim = BUNDLED_DIM if sha256 == BUNDLED_SHA256 else 0

    @cached_property
    def name(self) -> str:
        """The name that is stored with the vectors."""
        if self._given is not None:
            return self._given
        folder = Path(self._source)
        name = f"{folder.resolve().name}#{folder_digest(folder)}" if folder.is_dir() else str(self._source)
        prompts = self._prompts
        if not prompts:
            return name
        told = hashlib.blake2b(json.dumps([prompts.query, prompts.document]).encode(), digest_size=4).hexdigest()
        return f"{name}, prompts {told}"

    @property
    def dim(self) -> int:
        """Length of a vector.

        Raises:
            EmbedderError: The model had to be loaded to find out, and failed.
        """
        if not self._dim:
            self._encoded(["a"], "document")
        return self._dim

    @property
    def measure(self) -> Measure | None:
        """How much of a text the model reads; None if it reads all, or if only the loaded model can tell."""
        return self._measure(self._prompts.document)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of length 1.

        Raises:
            EmbedderError: The model cannot be loaded, is not the expected one, or failed.
        """
        self._prepare()
        return in_parts(texts, self.measure, lambda parts: self._encoded(parts, "document"))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector [dim] of length 1 of a query.

        Raises:
            EmbedderError: The model cannot be loaded, is not the expected one, or failed.
        """
        self._prepare()
        measure = self._measure(self._prompts.query)
        row: NDArray[np.float32] = in_parts([text], measure, lambda parts: self._encoded(parts, "query"))[0]
        return row

    def _encoded(self, texts: list[str], kind: str) -> NDArray[np.float32]:
        with self._lock:
            model = self._load()
            prompt = getattr(self._prompts, kind)
            encode = getattr(model, f"encode_{kind}", model.encode)  # asymmetric models have a method for each
            try:
                raw = encode(texts, prompt=prompt, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
            except Exception as error:  # whatever a model of the user's choosing may raise
                raise EmbedderError(failed(self.name, len(texts), error)) from error
            vectors = unit_rows(self.name, raw, len(texts), self._dim)
            if len(texts):
                self._dim = vectors.shape[1]
        return vectors

    @cached_property
    def _folder(self) -> Path | None:
        """The folder with its files, if known without loading it."""
        return None if self._is_loaded else cached_folder(self._source)

    @cached_property
    def _prompts(self) -> Prompts:
        """The model's prompts; known before it is loaded, because the name depends on them."""
        folder, names = self._folder, [str(self._source)]
        if folder is None:
            model = self._model
            own, default = (model.prompts, model.default_prompt_name) if self._is_loaded else ({}, None)
            return prompts_of(own, names, default)
        config = read_config(folder / "config_sentence_transformers.json")
        names.append(str(read_config(folder / "config.json").get("_name_or_path", "")))
        return prompts_of(config.get("prompts") or {}, names, config.get("default_prompt_name"))

    def _measure(self, prompt: str) -> Measure | None:
        if self._folder is not None:
            told = text_limit(self._folder)
            if told is not None:
                return counted_by(told[1], told[0], prompt)
        return None if self._model is None else measure_of(self._model, prompt)

    def _prepare(self) -> None:
        """Load the model if its files do not say how much it reads."""
        if self._model is None and self._measure("") is None:
            with self._lock:
                self._load()

    def _load(self) -> Any:
        if self._model is None:
            folder = Path(self._source)
            if self._sha256 is not None:
                _verify(folder / "model.safetensors", self._sha256)
            try:
                import torch
                from sentence_transformers import SentenceTransformer

                _refuse_code(folder)
                with without_progress_bars(), torch.device(self._device):
                    model = SentenceTransformer(
                        str(self._source),
                        device=self._device,
                        local_files_only=folder.is_dir(),
                        trust_remote_code=False,
                    )
                self._model = model
            except Exception as error:  # a hub, a file system, a model's own code
                raise EmbedderError(
                    f"embedder {self._told!r} cannot be loaded ({type(error).__name__}: {error}); give the id of a "
                    "sentence-transformers model or a folder that holds one"
                ) from error
        return self._model

    @property
    def _told(self) -> str:
        return self._given or str(self._source)


def measure_of(model: Any, prompt: str = "") -> Measure | None:
    """How much a loaded sentence-transformers model reads; None if it reads all or does not say."""
    limit, tokenizer = getattr(model, "max_seq_length", None), getattr(model, "tokenizer", None)
    if (
        isinstance(limit, bool)
        or not isinstance(limit, int)
        or not 0 < limit < LARGEST_LIMIT
        or not callable(tokenizer)
    ):
        return None
    return counted_by(lambda: tokenizer, limit, prompt)


def measure_within(embedder: object) -> Measure | None:
    """The measure of the sentence-transformers model in a framework's embedder, with its longest prompt counted."""
    owner = getattr(embedder, "__self__", embedder)
    held = [owner, *attributes_of(owner).values()]
    prompts = [each for name, each in attributes_of(owner).items() if "instruction" in name and isinstance(each, str)]
    for each in held:
        if isinstance(each, dict):
            prompts += [text for name, text in each.items() if name == "prompt" and isinstance(text, str)]
    found = (measure_of(each, max(prompts, key=len, default="")) for each in held if hasattr(each, "max_seq_length"))
    return next((measure for measure in found if measure is not None), None)


def _refuse_code(folder: Path) -> None:
    """Refuse a folder whose modules are not sentence-transformers' own: older releases import them without asking.

    Raises:
        ValueError: It names another class.
    """
    listed = folder / "modules.json"
    if not listed.is_file():
        return
    modules = json.loads(listed.read_text(encoding="utf-8"))
    for module in modules:
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ValueError(f"{listed} names the class {module['type']!r}; code from a model's folder is never run")


@lru_cache
def _verify(path: Path, expected: str) -> None:
    """Refuse weights that are not the published ones; checked once per process, because reading them takes a while.

    Raises:
        EmbedderError: The file cannot be read, or has another SHA-256.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbedderError(f"{path} cannot be read ({error}); reinstall deltamem-agents[retrieval]") from error
    if found != expected:
        raise EmbedderError(
            f"{path} has SHA-256 {found}, expected {expected}: these are not the published weights; "
            "reinstall deltamem-agents[retrieval] from a source you trust"
        )
