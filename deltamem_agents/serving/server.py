"""`server_for`: uvicorn with the limits that it lacks, and what is said when it starts."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # a request's first byte, or the one before it, to the end of its headers
HEADER_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 30
CLOSE_SECONDS = 10  # how long running requests may go on when the server is stopped


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which the headers of a request do not come in `HEADER_SECONDS`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Take bytes; what begins a request begins the wait for the end of its headers."""
        if self.waits is None and (self.cycle is None or self.cycle.response_complete):
            self._begin()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._end()
        super().connection_lost(exc)

    waits: asyncio.TimerHandle | None = None

    def _begin(self) -> None:
        self.waits = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _end(self) -> None:
        if self.waits is not None:
            self.waits.cancel()
            self.waits = None

    def _give_up(self) -> None:
        self.waits = None
        if not self.transport.is_closing():
            self.transport.close()


def server_for(app: FastAPI, *, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server for the application; ``run(sockets=[listen(…)])`` serves until SIGINT, SIGTERM or ``should_exit``.

    Args:
        started: Called once requests are answered.
    """
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM as on `should_exit`: uvicorn's own raises them again, so that nothing is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if isinstance(self.config.app, FastAPI) and hasattr(self.config.app.state, "stopping"):
            self.config.app.state.stopping.set()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Its connections send at once what is written.

    asyncio sets TCP_NODELAY only for sockets that name their protocol, and `socket.create_server` makes one that does
    not. The first event of a stream, sent after the headers, would then wait for a delayed acknowledgement: 40 ms.

    Raises:
        OSError: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made: Any = socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return made  # type: ignore[no-any-return]  # always a socket
