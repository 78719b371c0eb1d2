"""A maintainer's machine at night: a mirror of real snapshots, a checkout, GitHub and a package index, on loopback."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support import loopback

from . import github as hubs
from . import mirrors
from .release import HERE, fetch
from .worlds import run

#: Changes the line after which kvq-args puts its own.
CONFLICT = ("arg : sort the includes", mirrors.edit("common/arg.cpp", ('#include "json.h"\n', "#include <json.h>\n")))
UNDONE = (
    'Revert "arg : sort the includes"',
    mirrors.edit("common/arg.cpp", ("#include <json.h>\n", '#include "json.h"\n')),
)
#: A new field in the middle of a structure that the plugin passes.
FIELD = (
    "llama : add a parameter",
    mirrors.edit(
        "include/llama.h",
        ("        uint32_t n_seq_max;", "        uint32_t n_planted;\n        uint32_t n_seq_max;"),
    ),
)
#: And one that it sets, under another name.
RENAMED = (
    "llama : rename a parameter",
    mirrors.edit("include/llama.h", ("        uint32_t n_ubatch;", "        uint32_t n_micro;")),
)


@dataclass
class World:
    mirror: mirrors.Mirror
    project: Path
    hub: hubs.Hub

    def night(self, *words, date="2026-11-22", code=0) -> str:
        """Run ``kvsplit-patch nightly`` and give back all it printed."""
        return run("nightly", "--date", date, *words, code=code)

    def start(self, *words, date="2026-11-22") -> subprocess.Popen:
        """The same as a process of its own, that can be killed."""
        command = [sys.executable, "-m", "kvsplit_patch.main", "nightly", "--date", date, *words]
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
            start_new_session=True,
        )

    @property
    def open_issues(self) -> list[dict]:
        return [issue for issue in self.hub.issues if issue["state"] == "open"]


@contextmanager
def world(folder: Path, monkeypatch, *commits):
    """Upstream has the release and ``commits`` after it, the index the release; nothing has been looked at yet."""
    root = fetch(HERE)
    mirrors.own_store(folder, monkeypatch)
    with ExitStack() as stack:
        mirror = stack.enter_context(mirrors.serve(folder / "served", root, commits))
        hub = stack.enter_context(hubs.serving())
        index = stack.enter_context(_index())
        project = mirrors.checkout(folder / "project", mirror, monkeypatch)
        for name, value in {
            "GITHUB_TOKEN": hubs.TOKEN,
            "GITHUB_REPOSITORY": hubs.REPOSITORY,
            "GITHUB_API_URL": hub.url,
            "PIP_INDEX_URL": index,
            "PIP_CONFIG_FILE": os.devnull,
            "LLM_USER_PATH": str(folder / "user"),
        }.items():
            monkeypatch.setenv(name, value)
        yield World(mirror, project, hub)


@contextmanager
def _index():
    """A package index whose newest llama-cpp-python is the release; its commit is in the store already."""
    page = f'<!doctype html><a href="llama_cpp_python-{HERE}.tar.gz">llama_cpp_python-{HERE}.tar.gz</a>'.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    with loopback.serving(loopback.Server(Handler)) as server:
        yield f"{server.url}/simple"
