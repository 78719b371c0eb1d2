"""Fixtures for tests on real inference: the CLI as a person calls it, and small models made on the spot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvsplit_patch import build, cmake, subjects, trees
from kvsplit_patch.errors import PatchError
from llm_kvsplit import registry
from llm_kvsplit.paths import cache_dir

# One build of the series serves all tests, whatever llm's user folder is. A clone whose first question was answered has
# compiled it already, and it is copied from there.
_series = trees.patched()
os.environ["KVSPLIT_BUILDS"] = str(cache_dir() / "test-builds" / _series.tree)
#: The folder of that build, named by its id.
BUILD = build.build(_series, cmake.flags(), lambda line: print(line, file=sys.stderr))


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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A chat model that others trained; where it cannot be had its tests are skipped, and fail where CI is set."""
    try:
        return subjects.smollm2()
    except PatchError as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"without SmolLM2: {reason}")


@pytest.fixture
def smol(smollm2, user_path) -> Path:
    """The same, registered as "smol"."""
    registry.add(registry.Entry("smol", smollm2))
    return smollm2
