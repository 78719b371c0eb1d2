"""The patch rpc-errors: its own test, which kills and stops real servers beneath upstream's client."""

import subprocess

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.series import trees
from tests.support.release import HERE, fetch

pytestmark = [pytest.mark.build, pytest.mark.timeout(2400)]
PROGRAM = "test-rpc-errors"


def test_a_lost_server_fails_the_call_and_not_the_process():
    fetch(HERE)
    tools = artifacts.tools(trees.patched(), cmake.flags(), print, extra=(PROGRAM,))
    ended = subprocess.run([tools / PROGRAM], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    for reason in ("cannot connect: ", "not an endpoint", "aborted"):
        assert reason in ended.stderr
