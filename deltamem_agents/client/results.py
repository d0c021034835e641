"""Results of a server as the classes that `AgentMemory` returns, and its errors as the classes that it raises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deltamem_agents import errors
from deltamem_agents.errors import DeltaMemError, ServerError
from deltamem_agents.memory import Difference, Drift, Health, Recall, Receipt, Usage
from deltamem_agents.memory.results import StateHashes
from deltamem_agents.messages import text_of
from deltamem_agents.recall import Record
from deltamem_agents.store import AgentInfo, Entry, Erased, MessageRef

_ERRORS: Mapping[str, type[DeltaMemError]] = {
    "agent_not_found": errors.UnknownAgentError,
    "invalid_value": errors.ConfigError,
    "unknown_parameter": errors.ConfigError,
    "invalid_message": errors.InvalidMessageError,
    "invalid_id": errors.InvalidAgentError,
    "invalid_archive": errors.ArchiveError,
    "context_length_exceeded": errors.ContextLengthError,
    "invalid_messages": errors.ChatTemplateError,
    "database_unavailable": errors.StoreError,
    "embedder_failed": errors.EmbedderError,
    "engine_busy": errors.EngineBusyError,
    "timeout": errors.EngineTimeoutError,
    "engine_out_of_memory": errors.EngineMemoryError,
    "engine_stopped": errors.EngineFailedError,
    "closed": errors.ClosedError,
    "not_supported": errors.UnsupportedModelError,
    "invalid_token": errors.AccessDeniedError,
    "insufficient_scope": errors.AccessDeniedError,
    "agent_not_allowed": errors.AccessDeniedError,
}


def error_of(status: int, body: object) -> DeltaMemError:
    """The error that a server's answer tells of."""
    told = body if isinstance(body, Mapping) else {}
    kind = _ERRORS.get(str(told.get("code")), ServerError)
    return kind(str(told.get("detail") or f"the server answered with status {status}"))


def time_of(value: str) -> datetime:
    """A time."""
    return datetime.fromisoformat(value)


def entry(found: Mapping[str, Any]) -> Entry:
    """A message of the journal."""
    return Entry(**{**found, "text": text_of(found["content"]), "created_at": time_of(found["created_at"])})


def agent_info(found: Mapping[str, Any]) -> AgentInfo:
    """An agent."""
    return AgentInfo(**{**found, "created_at": time_of(found["created_at"])})


def record(found: Mapping[str, Any]) -> Record:
    """A record."""
    until = time_of(found["until"]) if found["until"] else None
    return Record(**{**found, "created_at": time_of(found["created_at"]), "until": until})


def recall(found: Mapping[str, Any]) -> Recall:
    """A recall."""
    changed = {
        "records": [record(each) for each in found["records"]],
        "usage": Usage(**found["usage"]),
        "notes": tuple(found["notes"]),
    }
    return Recall(**{**found, **changed})


def difference(found: Mapping[str, Any]) -> Difference:
    """What changed between two positions."""
    added, removed = ([entry(each) for each in found[name]] for name in ("added", "removed"))
    return Difference(added=added, removed=removed, layers=dict(found["layers"]))


def drift(found: Mapping[str, Any]) -> Drift:
    """How far a state is from a fresh fold."""
    return Drift(position=found["position"], layers=dict(found["layers"]))


def health(found: Mapping[str, Any]) -> Health:
    """What is journalled, folded and stored; the state itself is not part of it."""
    layers: dict[str, Any] = {}
    if found["layers"]:
        from deltamem_agents.core.diagnostics import LayerHealth

        layers = {name: LayerHealth(**each) for name, each in found["layers"].items()}
    changed = {
        "folded_at": time_of(found["folded_at"]) if found["folded_at"] else None,
        "layers": layers,
        "drift": drift(found["drift"]) if found["drift"] else None,
        "warnings": tuple(found["warnings"]),
    }
    return Health(**{**found, **changed})


def receipt(found: Mapping[str, Any]) -> Receipt:
    """A receipt."""
    changed = {
        "at": time_of(found["at"]),
        "erased": tuple(_erased(each) for each in found["erased"]),
        "held_by": {agent: _refs(held) for agent, held in found["held_by"].items()},
        "remaining": {agent: _refs(left) for agent, left in found["remaining"].items()},
        "state": StateHashes(**found["state"]),
        "outside_reach": tuple(found["outside_reach"]),
    }
    return Receipt(**{**found, **changed})


def state(found: Mapping[str, Any]) -> dict[str, Any]:
    """A state: module names to float32 tensors."""
    import torch

    return {name: torch.tensor(matrix, dtype=torch.float32) for name, matrix in found["state"].items()}


def _erased(found: Mapping[str, Any]) -> Erased:
    return Erased(**{**found, "ids": tuple(_refs(found["ids"])), "hashes": tuple(found["hashes"])})


def _refs(found: Any) -> list[MessageRef]:
    return [MessageRef(**each) for each in found]
