import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pygit2
import pytest

from kvsplit_patch import paths
from tests.support.web import serving

#: No test sees the models, states and builds of the person who runs it.
NOBODY = tempfile.TemporaryDirectory(prefix="llm-kvsplit-tests-")
os.environ["LLM_USER_PATH"] = NOBODY.name
# Threads of a linear algebra that is hardly used would wait, spinning, beside those of the model.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# So would a model's own, beside the threads of another worker's model: a file of tests took twice as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background job is started deaf to Ctrl-C, and what such tests start would be, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# llm starts anew in many tests; without compiled bytecode each start costs a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser):
    parser.addoption("--build", action="store_true", help="also run the tests that compile llama.cpp (minutes)")
    parser.addoption(
        "--long", action="store_true", help="also run the tests that need many releases or further builds (an hour)"
    )


def pytest_collection_modifyitems(config, items):
    compile_too = config.getoption("--build") or os.environ.get("CI")
    for item in items:
        if "build" in item.keywords and not compile_too:
            item.add_marker(pytest.mark.skip(reason="compiles llama.cpp: run with --build"))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="needs many releases or further builds: run with --long"))


@pytest.fixture
def user_path(tmp_path, monkeypatch):
    """An llm user directory for one test, where nothing is registered."""
    folder = tmp_path / "user"
    (folder / "kvsplit").mkdir(parents=True)
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    return folder


@pytest.fixture
def no_builds(user_path, monkeypatch):
    """The same, without the build that serves the other tests; the folder where builds are looked for."""
    for name in ("KVSPLIT_BUILDS", "LLAMA_CPP_LIB_PATH"):
        monkeypatch.delenv(name, raising=False)
    return user_path / "kvsplit" / "backends"


@pytest.fixture
def release(no_builds, monkeypatch):
    """A server where the newest release is looked for, with nothing in it yet."""
    with serving() as web:
        monkeypatch.setenv("KVSPLIT_BACKENDS_URL", f"{web.url}/release")
        yield web


@pytest.fixture
def llm(user_path, tmp_path):
    """Run ``llm …`` in a process of its own; returns the finished process, and fails on an unexpected exit code."""

    def run(*arguments: str, code: int = 0, stdin: str = "", env: dict[str, str] | None = None):
        # A test that loaded the library in this process has named it there; a person's shell does not.
        shell = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**shell, **(env or {})},
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr or done.stdout
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def logged(llm):
    """The newest logged response."""
    return lambda: json.loads(llm("logs", "--json", "-n", "1").stdout)[0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a checkout variable that ``make_world`` may set."""
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path / "nowhere"))
    return tmp_path / "cache"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A clean clone's worth of checkout: the project's patchset in a git repository of its own."""
    shutil.copytree(paths.patchset_dir(), tmp_path / "patchset")
    pygit2.init_repository(str(tmp_path))
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "user"))
    return tmp_path
