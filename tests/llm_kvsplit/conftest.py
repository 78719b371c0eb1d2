"""Fixtures for tests on real inference: the CLI as a person calls it, and small models made on the spot."""

import json
import os
import subprocess
import sys

import pytest

from kvsplit_patch import build, cmake, trees
from llm_kvsplit.paths import cache_dir

# One build of the series serves all tests, whatever llm's user folder is. A clone whose first question was answered has
# compiled it already, and it is copied from there.
_series = trees.patched()
os.environ["KVSPLIT_BUILDS"] = str(cache_dir() / "tests" / _series.tree)
build.build(_series, cmake.flags(), lambda line: print(line, file=sys.stderr))


@pytest.fixture
def llm(user_path, tmp_path):
    """Run ``llm …`` in a process of its own; returns the finished process, and fails on an unexpected exit code."""

    def run(*arguments: str, code: int = 0, stdin: str = "", env: dict[str, str] | None = None):
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
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
