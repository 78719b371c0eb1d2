"""amx-f16-blocks: f16 weights times many tokens, on a CPU with AMX."""

import re
import subprocess

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.series import trees
from llm_kvsplit import machine
from tests.support.release import HERE, fetch

PROGRAM = "test-amx-f16"


@pytest.mark.build
@pytest.mark.timeout(1200)
def test_agrees_with_double_precision_and_with_the_kernel_for_few_rows():
    fetch(HERE)
    tools = artifacts.tools(trees.patched(), cmake.flags(), print, extra=(PROGRAM,))
    ended = subprocess.run([tools / PROGRAM], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if "amx_int8" in machine.cpu_flags().split():
        assert re.search(r"^210 cases, 0 failed", ended.stdout, re.MULTILINE)
    else:
        assert "nothing to test" in ended.stdout
