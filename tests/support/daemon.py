"""A git server on this machine: shallow fetches work over the network only."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def serving(folder: Path):
    """``git daemon`` for every repository in ``folder``; yields its address, ``git://127.0.0.1:PORT``."""
    if subprocess.run(["git", "daemon", "--version"], capture_output=True, check=False).returncode not in (0, 129):
        pytest.skip("git has no daemon here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr", "--export-all"]
    # A session of its own: the daemon proper is a child of `git`, and both must end.
    daemon = subprocess.Popen([*serve, f"--base-path={folder}"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert daemon.poll() is None, "git daemon ended"
                time.sleep(0.05)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()
