"""A client of `deltamem serve`: the names, arguments, results and errors of `DeltaMem` and `AgentMemory`, over HTTP.

Needs httpx (extra ``serve``). Imports no torch; only `RemoteMemory.state` and `rebuild`, which return tensors, do.
May import `memory` and the layers below.
"""

from deltamem_agents.client.client import Client
from deltamem_agents.client.remote import RemoteMemory

__all__ = ["Client", "RemoteMemory"]
