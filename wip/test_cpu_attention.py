"""The CPU attention patch: right for every pair of cache types, and no less exact than stock."""

import subprocess

import pytest

from kvsplit_patch import build, cmake, options, trees

PROGRAM = "test-flash-attn-cpu"

#: Every so manieth case: some 500 of the program's 2064, all pairs among them.
EVERY = 4


@pytest.fixture(scope="module")
def patched():
    return build.tools(trees.patched(), cmake.flags(), options.echo, [PROGRAM])


@pytest.mark.build
def test_every_pair_against_double_precision(patched):
    said = subprocess.run([patched / PROGRAM, "-n", str(EVERY)], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    count, failed = (int(word) for word in said.stdout.splitlines()[-1].replace(",", "").split() if word.isdigit())
    assert count > 500 and failed == 0


@pytest.mark.build
def test_supported_by_the_cpu_backend_against_its_reference(patched):
    """test-backend-ops skips what a backend refuses, so the cases that ran are counted."""
    command = [patched / "test-backend-ops", "test", "-b", "CPU", "-o", "FLASH_ATTN_EXT", "-p", "type_K=q8_0,type_V=q4_0"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-2000:]
    assert said.stdout.count("type_K=q8_0,type_V=q4_0") >= 5
    assert "not supported" not in said.stdout


@pytest.mark.build
def test_the_marker_names_it(patched):
    assert "cpu-attention" in build.marker(patched)["features"]
