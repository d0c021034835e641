"""A transaction pooler as PgBouncer is one: each transaction of a client runs in whichever server process is free."""

from __future__ import annotations

import random
import socket
import struct
import threading
from typing import Self

CANCEL, TLS, GSS = 80877102, 80877103, 80877104  # codes in place of a protocol version
PROTOCOL = 3 << 16
READY = b"Z"  # and whether a transaction is open: I(dle), T, E
ENDS_A_REQUEST = (b"Q", b"S", b"F")  # after these the server says when it is ready


class Wire:
    """PostgreSQL's messages over a socket."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self._file = peer.makefile("rb")

    def exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def start(self) -> tuple[int, bytes]:
        """The first message of a connection, which has no kind: its code, and the rest."""
        size, code = struct.unpack("!ii", self.exactly(8))
        return code, self.exactly(size - 8)

    def message(self) -> tuple[bytes, bytes]:
        kind, size = struct.unpack("!ci", self.exactly(5))
        return kind, kind + struct.pack("!i", size) + self.exactly(size - 4)

    def send(self, data: bytes) -> None:
        self.peer.sendall(data)

    def until_ready(self, to: Wire | None = None) -> bytes:
        """Pass on what the server says until it is ready; whether a transaction is open then."""
        while True:
            kind, data = self.message()
            if to is not None:
                to.send(data)
            if kind == READY:
                return data[-1:]


class TransactionPooler:
    """Listens on a port of this machine; to be used in a ``with``."""

    def __init__(self, folder: str, user: str, database: str, *, size: int = 3, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._changed = threading.Condition()
        self._greeting = b""
        self._free = [self._server(f"{folder}/.s.PGSQL.5432", user, database) for _ in range(size)]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _server(self, path: str, user: str, database: str) -> Wire:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
        wire = Wire(peer)
        given = {"user": user, "database": database, "client_encoding": "UTF8"}
        body = struct.pack("!i", PROTOCOL) + b"".join(f"{k}\0{v}\0".encode() for k, v in given.items()) + b"\0"
        wire.send(struct.pack("!i", len(body) + 4) + body)
        greeting = b""
        while True:
            kind, data = wire.message()
            greeting += data
            if kind == READY:
                self._greeting = greeting
                return wire

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(Wire(peer),), daemon=True).start()

    def _serve(self, client: Wire) -> None:
        server: Wire | None = None
        try:
            while (code := client.start()[0]) in (TLS, GSS):
                client.send(b"N")
            if code == CANCEL:
                return
            client.send(self._greeting)
            while True:
                kind, data = client.message()
                if kind == b"X":
                    return
                server = server or self._take()
                server.send(data)
                if kind in ENDS_A_REQUEST and server.until_ready(client) == b"I":
                    self._give(server)
                    server = None
        except (EOFError, OSError):
            pass
        finally:
            client.peer.close()
            if server is not None:
                server.send(b"Q" + struct.pack("!i", 13) + b"ROLLBACK\0")
                server.until_ready()
                self._give(server)

    def _take(self) -> Wire:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._free))
            return self._free.pop(self._chance.randrange(len(self._free)))

    def _give(self, server: Wire) -> None:
        with self._changed:
            self._free.append(server)
            self._changed.notify()
