"""``llm kvsplit rpc-server`` in processes of their own, and servers that are none."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Of the tests' own calls, on two cores.
THREADS = 1


@dataclass
class Server:
    endpoint: str
    process: subprocess.Popen

    def kill(self, number: int) -> None:
        os.kill(self.process.pid, number)


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llm", "kvsplit", "rpc-server", *map(str, arguments)]


@contextmanager
def rpc_server(port: int | None = None) -> Iterator[Server]:
    """One that listens on loopback; killed at the end, whatever state it is in."""
    port = port or free_port()
    arguments = command("--port", port, "--threads", THREADS)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        assert said.startswith("Listening on"), said + process.stderr.read()
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(f"127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _listens(port: int) -> bool:
    """Without connecting, since a server serves one at a time."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The endpoint of something that answers each connection so, and is no server of llama.cpp."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(20)
                    answer(connection)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def version(major: int, minor: int, patch: int) -> Callable[[socket.socket], None]:
    """Answers HELLO as a server of that protocol does (rpc_msg_hello_rsp in ggml-rpc.cpp), and waits for the end."""

    def answer(connection: socket.socket) -> None:
        asked = b""
        while len(asked) < 1 + 8 + 24:
            asked += connection.recv(64) or b"-"
        connection.sendall(struct.pack("<Q4B24x", 28, major, minor, patch, 0))
        connection.recv(1)

    return answer
