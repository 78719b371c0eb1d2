"""A Hugging Face on this machine, as much of it as huggingface_hub asks for to fill its cache."""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support import loopback


class Hub:
    """``repos[repo][file]`` is what a repository holds now; its commit follows from that."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        #: So many bytes of a file are sent, and no more until ``released``.
        self.held: int | None = None
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
                files = hub.repos.get(asked[1], {}) if asked else {}
                data = files.get(asked[2]) if asked else None
                self.send_response(404 if data is None else 200)
                if data is not None:
                    self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                    self.send_header("X-Repo-Commit", hub.commit(asked[1]))
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                return data or b""

            def do_GET(self):
                data = self.do_HEAD()
                self.wfile.write(data[: hub.held])
                if hub.held is not None:
                    hub.released.wait()
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = loopback.Server(Handler)

    def commit(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def fetch(self, repo: str, file: str, cache: Path) -> Path:
        return fetch(self.server.url, repo, file, cache)


def fetch(url: str, repo: str, file: str, cache: Path | str) -> Path:
    """What ``hf download REPO FILE`` does."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, file, endpoint=url, cache_dir=cache, token=False))


@contextmanager
def serving():
    hub = Hub()
    with loopback.serving(hub.server):
        try:
            yield hub
        finally:
            hub.released.set()
