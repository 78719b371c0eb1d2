"""A first question where there is no library yet."""

import pytest

from llm_kvsplit.builds import shelf

#: Where no release answers.
NO_RELEASE = {"KVSPLIT_BACKENDS_URL": "http://127.0.0.1:1"}
QUESTION = ("-m", "kvsplit-demo", "-o", "max_tokens", "8", "-o", "temperature", "0", "def f(")


@pytest.fixture
def no_library(no_builds, monkeypatch):
    """No build, no release, and the bindings without a library, as uv installs them."""
    if shelf.stock_folder() is not None:
        pytest.fail("llama-cpp-python has a library of its own here: install it as pyproject.toml says")
    monkeypatch.setenv("KVSPLIT_BACKENDS_URL", NO_RELEASE["KVSPLIT_BACKENDS_URL"])
    return no_builds
