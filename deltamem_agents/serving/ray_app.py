"""The server as a Ray Serve application: replicas of one engine each, on one machine or many.

Every replica gives right answers for every agent, because a state is a fold of the journal, and the journal is in the
database that all of them share. Requests that name an agent in the header ``x-deltamem-agent`` go to the same replica
as long as it lives, so its hot caches stay warm; the others go anywhere. A replica that is stopped finishes its replies
first. Needs Ray (extra ``ray``), and PostgreSQL where replicas run on several machines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, EngineFailedError, require_extra
from deltamem_agents.serving.dependencies import AGENT_HEADER
from deltamem_agents.serving.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

NAME = "deltamem"
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
HEADER_VARIABLE = "RAY_SERVE_SESSION_ID_HEADER_KEY"  # Ray's: the header that its router hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many replicas there are, and what each gets.

    Args:
        least, most: Their number; Ray scales between the two by the requests under way.
        requests: Requests under way in a replica on average, above which Ray adds one.
        cpus, gpus: What Ray reserves for each.
        drain_seconds: How long a replica that is stopped may go on with its replies.

    Raises:
        ConfigError: A field is out of range.
    """

    least: int = 1
    most: int = 1
    requests: int = 16
    cpus: float = 1.0
    gpus: float = 0.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        arguments.whole(self.least, "least", 1)
        arguments.whole(self.most, "most", self.least)
        arguments.whole(self.requests, "requests", 1)
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
                raise ConfigError(f"{name} is {value!r}; give a number from 0")
        arguments.seconds(self.drain_seconds, "drain_seconds")

    def deployment(self) -> dict[str, Any]:
        """The options of Ray Serve's deployment."""
        from ray.serve.config import RequestRouterConfig

        return {
            "name": NAME,
            "autoscaling_config": {
                "min_replicas": self.least,
                "max_replicas": self.most,
                "target_ongoing_requests": self.requests,
            },
            "max_ongoing_requests": 4 * self.requests,
            "graceful_shutdown_timeout_s": self.drain_seconds,
            "ray_actor_options": {"num_cpus": self.cpus, "num_gpus": self.gpus},
            "request_router_config": RequestRouterConfig(request_router_class=ROUTER),
        }


class Replica:
    """One replica: a memory of its own on the shared database. Ray makes it, and starts another if it dies.

    Args:
        options: Options of `DeltaMem.open`.
        settings: What the server allows.
    """

    def __init__(self, options: Mapping[str, Any], settings: Settings) -> None:
        from deltamem_agents.memory import DeltaMem

        self._settings = settings
        self._mem = DeltaMem.open(**options)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray calls this once, after the constructor."""
        from deltamem_agents.serving.app import create_app

        return create_app(self._mem, self._settings)

    def check_health(self) -> None:
        """Tell Ray whether to replace this replica: its engine has stopped.

        Raises:
            EngineFailedError: It has.
        """
        if self._mem.backbone.present and not self._mem.engine.usable:
            raise EngineFailedError("the engine has stopped; Ray starts another replica")

    def __del__(self) -> None:
        """Close the memory; Ray deletes a replica once its replies are finished."""
        if mem := getattr(self, "_mem", None):
            mem.close()


def application(
    options: Mapping[str, Any], settings: Settings | None = None, replicas: Replicas | None = None
) -> Application:
    """The application for ``ray.serve.run``.

    Args:
        options: Options of `DeltaMem.open`, the same for every replica. All of them must reach the database.
        settings: What the server allows; each replica counts requests on its own.
        replicas: How many, and what each gets.

    Raises:
        ConfigError: No database is named, or it is in memory; or a field is out of range.
        MissingExtraError: Ray is not installed.
    """
    require_extra("ray", "serving on Ray", "ray")
    from ray import serve

    from deltamem_agents.store.sqlite_files import is_passing

    url = options.get("url")
    if not isinstance(url, str) or is_passing(url):
        raise ConfigError("replicas share a database, and none is named, or one in memory; give url='postgresql://…'")
    deployed = serve.deployment(**(replicas or Replicas()).deployment())(serve.ingress()(Replica))
    return deployed.bind(dict(options), settings or Settings())


def route_by_agent() -> None:
    """Make Ray route by the agent's header. Call it in the process that starts Ray, before it does."""
    os.environ.setdefault(HEADER_VARIABLE, AGENT_HEADER)


def run(app: Application, host: str, port: int) -> None:
    """Start Ray on this machine, or join the cluster that ``RAY_ADDRESS`` names, and serve until SIGINT or SIGTERM."""
    route_by_agent()
    from ray import serve

    serve.start(http_options={"host": host, "port": port})
    serve.run(app, name=NAME, route_prefix="/", blocking=True)
