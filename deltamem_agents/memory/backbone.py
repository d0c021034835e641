"""The backbone of a memory, if it has one: load, share and release it. Only this module loads model libraries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltamem_agents.engine.options import Limits
from deltamem_agents.engine.sharing import release, shared, stamp
from deltamem_agents.errors import ConfigError, MissingExtraError
from deltamem_agents.recall.notes import NOTES
from deltamem_agents.recall.prompt import TRAINED, Form

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from deltamem_agents.core import Adapter
    from deltamem_agents.engine.engine import Engine

TRAINED_FAMILY = "deltamem-tiny"  # the rendering family of the bundled model and of what `train` makes of it
BYTES_A_TOKEN = 3  # UTF-8 bytes: somewhat fewer than in English, about as many as in code and Chinese
NO_BACKBONE = "opened with backbone=None: records only, with no state and no answer"
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


class Backbone:
    """A memory's model, or the absence of one.

    Args:
        engine: None for a memory without a model.
    """

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    @property
    def present(self) -> bool:
        """Whether there is a model."""
        return self._engine is not None

    def engine(self, what: str) -> Engine:
        """The engine that runs the model.

        Args:
            what: What needs the model, for the error's message.

        Raises:
            ConfigError: There is no model.
        """
        if self._engine is None:
            raise ConfigError(
                f"{what} needs a backbone, and this memory was opened with backbone=None; open the same database with "
                "backbone='tiny', a folder or a hub id. What was journalled meanwhile is folded then"
            )
        return self._engine

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the states that this backbone can read; None without one."""
        return None if self._engine is None else self._engine.fingerprint

    @property
    def state_bytes(self) -> int:
        """Size of one agent's state; 0 without a backbone."""
        return 0 if self._engine is None else self._engine.state_bytes

    @property
    def form(self) -> Form:
        """The form of recalled text for this backbone: the one that it was trained on, or the one for any model."""
        return TRAINED if self._engine is not None and self._engine.rendering.name == TRAINED_FAMILY else NOTES

    def count(self, text: str) -> int:
        """Number of tokens of a text; without a backbone a third of its bytes, an overestimate for most text."""
        if self._engine is not None:
            return self._engine.count(text)
        return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)

    def close(self) -> None:
        """Close the engine unless another memory uses it."""
        if self._engine is not None:
            release(self._engine)


def open_backbone(
    backbone: str | Path | None,
    adapter: str | Path | Adapter | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    options: Mapping[str, Any],
    limits: Limits | None,
    hot_bytes: int,
) -> Backbone:
    """Load a model, or use the one that this process has loaded already; None loads none.

    Raises:
        DeltaMemError: It cannot be loaded; see `engine.load`.
    """
    if backbone is None:
        return Backbone(None)
    from deltamem_agents.engine.engine import Engine
    from deltamem_agents.engine.loading import load

    def make() -> Engine:
        loaded = load(backbone, adapter, model=model, tokenizer=tokenizer, **options)
        return Engine(loaded, limits=limits, hot_bytes=hot_bytes)

    if model is not None or not (adapter is None or isinstance(adapter, str | Path)):
        return Backbone(make())
    files = (stamp(backbone), stamp(adapter))
    return Backbone(shared((str(backbone), str(adapter), files, *options.values(), limits, hot_bytes), make))


def check_backbone(
    backbone: object, adapter: object, model: object, tokenizer: object, options: Mapping[str, object]
) -> None:
    """Check the arguments of `open_backbone` before anything is read.

    Raises:
        ConfigError: An argument has the wrong type, or describes a model although ``backbone`` is None.
        MissingExtraError: torch or transformers is not installed.
    """
    if backbone is not None:
        try:
            from deltamem_agents.engine.loading import check_loading
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"backbone {str(backbone)!r} needs {error.name}, which is not installed; '{CPU_TORCH}' and 'pip "
                "install deltamem-agents' install it, and backbone=None needs no model",
                name=error.name,
            ) from error
        check_loading(backbone, adapter, model, tokenizer, **options)
        return
    given = {"adapter": adapter, "model": model, "tokenizer": tokenizer, **options}
    unused = [name for name, value in given.items() if value is not None and name not in ("device", "dtype")]
    if unused:
        raise ConfigError(
            f"backbone=None loads no model, and {', '.join(unused)} {'is' if len(unused) == 1 else 'are'} of one; "
            "name a backbone, or leave that out"
        )
