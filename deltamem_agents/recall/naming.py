"""Names that distinguish embedding models, made from an object's class and its attributes.

Attributes that may change the vectors count: a model, a revision, a prompt, a dimension. Keys, addresses, time limits
and batch sizes do not count. No value that may be a secret is read.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from deltamem_agents.errors import ConfigError

READABLE = 120  # characters of a model's own name; a longer name is replaced by its digest
DEPTH = 4  # levels of nested objects that are read
MODELS = (  # attributes that name the model; the first one present counts
    "model_name", "model", "model_id", "model_name_or_path", "model_path", "modelname", "repo_id", "repo",
    "deployment_name", "azure_deployment", "deployment", "deployment_id", "engine", "endpoint_name", "embedding_model",
    "checkpoint",
)  # fmt: skip
# Parts of attribute names that say how a model is reached or run, which does not change its vectors.
_REACHED = frozenset(
    """
    account address allowed api apikey async auth authorization backend batch bearer cache cached caching callback
    callbacks calls cert chunk client clients cls concurrency concurrent connection connections cookie cookies cost
    count counter credential credentials debug device devices dir directory disallowed download dtype event events
    executor failures headers home http keepalive key keys last limiter lock locks log logger logging memo metadata
    organization organisation parallel passwd password port price progress project proxies proxy queue quiet rate
    region requests retries retry seconds secret secrets seed semaphore session show ssl stat stats status store tag
    tags tenant thread threads time timeout times token tokens trust usage user username verbose worker workers zone
    """.split()
)
_ADDRESSES = frozenset("base endpoint host server uri url".split())  # they distinguish models only if nothing else does
_NUMBERS = re.compile(r"dim|size|rank|revision|version|layer|trunc|normal|pool|binary|quant|length|ctx")
_PLAIN = (str, int, float, bool)


def name_of(source: object) -> str:
    """A name for an embedder that has none itself. It changes with anything that may change the vectors.

    Raises:
        ConfigError: Nothing stable identifies the embedder: it is a function without a name, or an object that hides
            its model.
    """
    if isinstance(source, functools.partial) or (inspect.isroutine(source) and not inspect.ismethod(source)):
        return _of_function(source)
    if inspect.ismethod(source):
        owner = source.__self__
        return f"{name_of(owner)}.{source.__name__}" if not isinstance(owner, type) else _of_function(source)
    cls = type(source)
    told = _Told()
    told.read(source, ())
    for each in MODELS:  # class attributes and properties too
        value = getattr(source, each, None)
        if isinstance(value, str) and value:
            told.models.setdefault(each, value)
    if not told.found:
        told.found = told.addresses
    if told.opaque and not told.found and not told.models:
        raise ConfigError(
            f"embedder {cls.__qualname__} keeps its model in {told.opaque[0]!r}, which does not distinguish it from "
            "another; give name=…, which is stored with its vectors"
        )
    named = next((each for each in MODELS if each in told.models), "")
    model = told.models.get(named)
    told.found.pop((named,), None)
    base = f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
    rest = {".".join(map(str, path)): value for path, value in told.found.items() if value != model}
    if model is not None and (len(str(model)) > READABLE or not isinstance(model, str)):
        rest["model"], model = model, None
    name = f"{base}:{model}" if model else base
    return f"{name}#{_digest(rest)}" if rest else name


def _of_function(source: Any) -> str:
    if isinstance(source, functools.partial):
        told = _Told()
        told.read({"args": list(source.args), **source.keywords}, (), every=True)
        return f"{name_of(source.func)}#{_digest({'.'.join(map(str, p)): v for p, v in told.found.items()})}"
    own = f"{getattr(source, '__module__', '')}.{getattr(source, '__qualname__', '')}"
    if own.endswith(".") or own.startswith(".") or "<" in own:
        raise _nameless(source)
    return own


def _nameless(source: object) -> ConfigError:
    return ConfigError(f"embedder {source!r} has no stable name to store with its vectors; give name=…")


class _Told:
    """What an object's attributes tell of its model: ``found`` by path, and ``opaque`` ones that tell nothing."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, ...], Any] = {}
        self.addresses: dict[tuple[str, ...], Any] = {}
        self.models: dict[str, Any] = {}
        self.opaque: list[str] = []
        self._seen: set[int] = set()

    def read(self, value: object, path: tuple[str, ...], *, every: bool = False) -> None:
        """Collect the attributes of ``value``; ``every`` collects all plain values, whatever their names."""
        if len(path) > DEPTH or id(value) in self._seen:
            return
        self._seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else attributes_of(value).items()
        defaults = _defaults(type(value))
        for key, each in items:
            name = str(key).lower().strip("_")
            parts = frozenset(re.split(r"[^a-z0-9]+", name))
            if not path and name in MODELS and isinstance(each, str) and each:
                self.models[name] = each
            if parts & _REACHED and not _embeds(each):
                continue
            if not (path and name in MODELS) and key in defaults and _same(defaults[key], each):
                continue
            if parts & _ADDRESSES and name not in MODELS and isinstance(each, str):
                self.addresses[(*path, name)] = each.partition("?")[0].rpartition("@")[2]
                continue
            self._note(name, each, (*path, name), every=every)

    def _note(self, name: str, value: object, path: tuple[str, ...], *, every: bool) -> None:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, PurePath):
            value = str(value)
        if value is None or (isinstance(value, str) and not value):
            return
        if isinstance(value, str) or (isinstance(value, _PLAIN) and (every or _NUMBERS.search(name))):
            self.found[path] = value
        elif isinstance(value, Mapping):
            self.read(value, path, every=every)
        elif isinstance(value, list | tuple) and all(isinstance(each, _PLAIN) for each in value):
            if every or any(isinstance(each, str) for each in value):
                self.found[path] = list(value)
        elif isinstance(value, np.ndarray):
            self.found[path] = hashlib.blake2b(value.tobytes(), digest_size=6).hexdigest()
        elif _is_model(value):
            self.found[path] = _weights(value)
        elif _embeds(value) or _is_settings(value):
            before = len(self.found)
            self.found[(*path, "class")] = type(value).__qualname__
            self.read(value, path)
            if len(self.found) == before + 1 and attributes_of(value):
                del self.found[(*path, "class")]
                self.opaque.append(path[-1])
        elif callable(value) and not isinstance(value, type):
            try:
                self.found[path] = name_of(value)
            except ConfigError:
                self.opaque.append(path[-1])
        elif not isinstance(value, _PLAIN) and _may_be_a_model(name):
            self.opaque.append(path[-1])


def _embeds(value: object) -> bool:
    return any(callable(getattr(value, each, None)) for each in ("embed_documents", "get_text_embedding_batch"))


def attributes_of(source: object) -> dict[str, Any]:
    """An object's own attributes, and the private ones of a pydantic model."""
    found = dict(getattr(source, "__dict__", None) or {})
    for name in (each for cls in type(source).__mro__ for each in _slots(cls)):
        if hasattr(source, name):
            found.setdefault(name, getattr(source, name))
    found.update(getattr(source, "__pydantic_private__", None) or {})
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _defaults(cls: type) -> dict[str, Any]:
    """Default values of a pydantic model's or a dataclass's fields; they do not tell which model was chosen."""
    known = getattr(cls, "model_fields", None)
    if isinstance(known, Mapping):
        return {name: field.get_default(call_default_factory=False) for name, field in known.items()}
    return {each.name: each.default for each in fields(cls)} if is_dataclass(cls) else {}


def _same(one: object, other: object) -> bool:
    return isinstance(one, (*_PLAIN, list, dict, type(None))) and type(one) is type(other) and one == other


def _is_settings(value: object) -> bool:
    """Whether an object only holds plain values."""
    cls = type(value)
    if (
        is_dataclass(cls)
        or isinstance(getattr(cls, "model_fields", None), Mapping)
        or cls.__name__ == "SimpleNamespace"
    ):
        return True
    own = attributes_of(value)
    return (
        cls.__module__ != "builtins"
        and bool(own)
        and all(isinstance(each, (*_PLAIN, type(None))) for each in own.values())
    )


def _may_be_a_model(name: str) -> bool:
    return (
        re.search(r"model|encoder|embed|pipeline|inner|session|engine|network|weights|vectors|transformer", name)
        is not None
    )


def _is_model(value: object) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "parameters", None))


def _weights(model: Any) -> str:
    """A digest of samples of a torch model's weights, and of its prompts."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 64)][:64].to("cpu").float().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.astype("<f4").tobytes())
    digest.update(json.dumps([getattr(model, "prompts", None), getattr(model, "default_prompt_name", None)]).encode())
    return digest.hexdigest()


def _digest(told: Mapping[str, Any]) -> str:
    written = json.dumps(told, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.blake2b(written.encode(), digest_size=6).hexdigest()
