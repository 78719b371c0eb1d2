"""A TCP proxy that counts what passes, and may hold it back as a slower network does."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Traffic:
    """Of one server: bytes each way, and how often its client waited for an answer."""

    sent: int = 0
    received: int = 0
    turns: int = 0

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.sent - before.sent, self.received - before.received, self.turns - before.turns)


class Proxy:
    """Passes on what reaches ``endpoint`` to the server, each byte ``delay`` seconds later, in either direction."""

    def __init__(self, server: str) -> None:
        self.traffic, self.delay = Traffic(), 0.0
        host, _, port = server.partition(":")
        self._server = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._counts = threading.Lock()
        self._upward = False
        self.endpoint = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._server)
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass(near, far, up=True)
                self._pass(far, near, up=False)

    def _pass(self, source: socket.socket, target: socket.socket, *, up: bool) -> None:
        held: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def read() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(_CHUNK)
                except OSError:
                    data = b""
                self._count(len(data), up=up)
                held.put((time.monotonic() + self.delay, data))

        def write() -> None:
            with suppress(OSError):
                while True:
                    due, data = held.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(data)

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()

    def _count(self, n: int, *, up: bool) -> None:
        if not n:
            return
        with self._counts:
            before = self.traffic
            if up:
                self.traffic = replace(before, sent=before.sent + n)
            else:
                turn = 1 if self._upward else 0
                self.traffic = replace(before, received=before.received + n, turns=before.turns + turn)
            self._upward = up


@contextmanager
def proxies(servers: list[str]) -> Iterator[list[Proxy]]:
    """One before each server."""
    made = [Proxy(server) for server in servers]
    try:
        yield made
    finally:
        for each in made:
            each.close()
