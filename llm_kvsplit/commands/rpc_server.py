"""``llm kvsplit rpc-server``: another machine's llama.cpp computes here."""

from __future__ import annotations

import errno
import ipaddress
import os
import sys
import threading
from typing import Any

import click

from .. import endpoints, machine, paths
from ..errors import KvsplitError
from ..units import size
from .parameters import threads


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The IPv4 address of this machine to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=endpoints.PORT, show_default=True)
@threads
@click.option("--cache", is_flag=True, help="Keep what large weights there are on this disk, so that they travel once.")
def command(host: str, port: int, threads: int | None, cache: bool) -> None:
    """Hold layers of another machine's model here, with their cache, and compute them.

    There: llm -m MODEL -o rpc HOST:PORT. One machine at a time is served, with this one's GPUs, or its CPU where it has
    none. There is no password and no encryption: whoever reaches the port can have this machine compute, and read
    what it is sent. Listen on a private network, or on 127.0.0.1 with a tunnel (ssh -L).
    """
    _refuse_unless_free(host, port)
    from ..engine import servers

    if not servers.supported():
        raise KvsplitError("This library cannot serve other machines: 'llm kvsplit backend install' gets one that can.")
    if not ipaddress.ip_address(host).is_loopback:
        click.echo(f"Warning: whoever reaches {host}:{port} can use this machine: private networks only.", err=True)
    folder = _folder() if cache else None
    count = threads or machine.physical_cores()
    served = servers.served().values()
    memory = sum(device["total_bytes"] for device in served)
    click.echo(
        f"Listening on {host}:{port} with {size(memory)} of memory ({', '.join(each['description'] for each in served)}); "
        "Ctrl-C ends it.",
        err=True,
    )
    _serve(servers, f"{host}:{port}", count, folder)


def _refuse_unless_free(host: str, port: int) -> None:
    """Raise KvsplitError where nobody could listen; llama.cpp would say no more than that it failed."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise KvsplitError(
            f"--host {host} is no IPv4 address: give one of this machine's, or 0.0.0.0 for all."
        ) from None
    try:
        endpoints.free_port(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise KvsplitError(f"Port {port} of {host} is taken: end what listens there, or use --port.") from None
        raise KvsplitError(
            f"{host}:{port} cannot be listened on ({error.strerror}): check --host and --port."
        ) from None


def _folder() -> str:
    folder = paths.cache_dir() / "rpc"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KvsplitError(f"{folder} cannot be made ({error.strerror}): leave out --cache, or check it.") from None
    return str(folder)


def _serve(servers: Any, endpoint: str, count: int, folder: str | None) -> None:
    """In a thread, so that Ctrl-C and the end of a terminal reach this one; the process ends with it."""
    thread = threading.Thread(target=servers.serve, args=(endpoint, count, folder), daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.stdout.flush()
        os._exit(0)  # the thread waits in C, where nothing else ends it
    raise KvsplitError(f"The server on {endpoint} ended by itself: see what it printed, and start it anew.")
