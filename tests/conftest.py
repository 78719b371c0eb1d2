import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--build", action="store_true", help="also run the tests that compile llama.cpp (minutes)")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--build") or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="compiles llama.cpp: run with --build")
    for item in items:
        if "build" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def user_path(tmp_path, monkeypatch):
    """An empty llm user directory for one test."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    return folder
