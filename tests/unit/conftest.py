"""Neither llama.cpp nor a network: what these tests need is Python, and it takes seconds."""

import sys

import pytest

from tests.support.commands import run  # noqa: F401


def pytest_collection_finish(session):
    if "llama_cpp" in sys.modules:
        raise pytest.UsageError("Something imports llama_cpp while tests are collected: tests/unit must do without.")


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    """Nothing here imports llama_cpp, finds a build of it, downloads one or compiles one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # importing it fails now, in this process
    monkeypatch.delenv("KVSPLIT_BUILDS", raising=False)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/nowhere")  # so that no process even looks for a way to one
    monkeypatch.setenv("KVSPLIT_BACKENDS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CXX", "no-such-compiler")
