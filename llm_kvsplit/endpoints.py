"""Other machines that compute (``llm kvsplit rpc-server``): how a person names them, and where one can listen."""

from __future__ import annotations

import re
import socket

#: Where a server listens unless it is told otherwise; llama.cpp's own rpc-server does, too.
PORT = 50052
#: llama_max_devices() in llama.cpp.
_MOST = 16


def parse(text: str) -> tuple[str, ...]:
    """ "box,10.0.0.7:50053" -> ("box:50052", "10.0.0.7:50053"). Raises ValueError with the reason as a clause.

    llama.cpp knows names and IPv4 addresses: it takes what stands before the first colon for the host.
    """
    endpoints = tuple(_endpoint(part.strip()) for part in text.split(","))
    if len(endpoints) > _MOST:
        raise ValueError(f"it names {len(endpoints)} servers, and llama.cpp takes {_MOST}")
    for i, endpoint in enumerate(endpoints):
        if endpoint in endpoints[:i]:
            raise ValueError(f"it names {endpoint} twice")
    return endpoints


def _endpoint(part: str) -> str:
    parts = re.fullmatch(r"([A-Za-z0-9_.-]+)(?::(\d{1,5}))?", part)
    if parts is None or not 0 < int(parts[2] or PORT) < 1 << 16:
        raise ValueError(f"{part!r} is no host:port")
    return f"{parts[1]}:{int(parts[2] or PORT)}"


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises OSError where nothing can listen there."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen()
        return trial.getsockname()[1]
