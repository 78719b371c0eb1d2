"""``llm kvsplit …``, called in this process and in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llm_kvsplit.commands import kvsplit


@pytest.fixture
def run(user_path):
    """Run a command in this process; gives back all it printed. A traceback fails, and so does another exit code."""

    def run(*arguments, code=0, **kwargs):
        done = CliRunner().invoke(kvsplit, [str(each) for each in arguments], **kwargs)
        assert done.exit_code == code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    return run


def refused(run, *arguments):
    """What a command says that ends with one sentence."""
    output = run(*arguments, code=1)
    assert output.startswith("Error: ") and output.count("\n") == 1, output
    return output


def process(folder: Path, *arguments: str, **environment: str) -> str:
    """Run a command in a process, with ``folder`` as llm's; what it printed on stdout. For fixtures of a module."""
    command = [sys.executable, "-m", "llm", "kvsplit", *arguments]
    env = {**os.environ, "LLM_USER_PATH": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout
