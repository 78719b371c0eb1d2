"""The patches cpu-attention-*: right for every pair of cache types, in every build, and at each rung of them."""

import functools
import json
import platform
import re
import subprocess

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.proof.programs import backend_ops
from kvsplit_patch.series import patchset, trees
from tests.support.release import HERE, fetch

PROGRAM = "test-flash-attn-cpu"

#: Every so manieth of the program's 3408 cases, and of 810 with masked ends: some 600, with each pair and each head size.
EVERY = 7

#: It runs all of its cases with fewer threads than planned: so many for each of two pairs, a few queries and many.
GRANTED = 17 * 18 // 2


@pytest.fixture(scope="module")
def tools():
    fetch(HERE)
    return artifacts.tools(trees.patched(), cmake.flags(), print, extra=(PROGRAM,))


@pytest.fixture(scope="module")
def printed(tools):
    """What the program prints: a line a case, and their number."""
    return run(tools / PROGRAM)


def run(program):
    ended = subprocess.run([program, "-v", "-n", str(EVERY)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@functools.cache
def hashes(name):
    """Case -> hash of its result, with the series through the patch ``name``."""
    source = trees.through(name)
    with cmake.compiled(source.folder, source.commit, cmake.flags(), (PROGRAM,), print) as out:
        return dict(re.findall(r"^(.*): \S+ ([0-9a-f]{16})$", run(out / PROGRAM), re.MULTILINE))


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_agrees_with_double_precision_and_with_itself(printed):
    pairs = set(re.findall(r"^(\S+-\S+) dk=", printed, re.MULTILINE))
    assert len(pairs) == 81  # f16, q8_0, q6_0, q5_1, q5_0, q4_1, q4_0, iq4_nl and q3_nl on either side
    count, failed = map(int, re.search(r"^(\d+) cases, (\d+) failed", printed, re.MULTILINE).groups())
    assert count > 250 + 4 * GRANTED and failed == 0


@pytest.mark.build
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("tokens", [1, 75])
@pytest.mark.parametrize("pair", ["f16-f16", "q8_0-q4_0"])
def test_fewer_threads_than_planned(printed, pair, tokens):
    """Every number of threads granted of up to 17; the program dies where its work buffer is too small."""
    threads = re.findall(rf"^{pair} .* kv=256 tokens={tokens} threads=(\d+) granted=(\d+):", printed, re.MULTILINE)
    wanted = {(planned, granted) for planned in range(1, 18) for granted in range(1, planned + 1)}
    assert len(wanted) == GRANTED and wanted <= {(int(planned), int(granted)) for planned, granted in threads}


@pytest.mark.build
@pytest.mark.timeout(600)
def test_agrees_with_upstreams_plain_path(tools):
    """test-backend-ops skips what a backend refuses, so the cases that ran are counted."""
    outcome = backend_ops.test(tools, "CPU", "type_K=q8_0,type_V=q4_0")
    assert (outcome.failed, outcome.refused, outcome.died) == ((), (), "")
    assert outcome.passed >= 10


@pytest.mark.build
@pytest.mark.timeout(3600)
def test_a_rung_changes_only_the_results_that_it_says():
    """Two patches may change all of them, and the others none, or none whose keys and values are both f16."""
    fetch(HERE)
    series = patchset.load().patches
    rungs = [patch for patch in series if patch.name.startswith("cpu-attention-")]
    assert [rung.header.changes_numerics for rung in rungs[:2]] == [("all",), ("all",)]
    for rung in rungs[2:]:
        before, after = hashes(series[series.index(rung) - 1].name), hashes(rung.name)
        added = {case for case in after if " hidden=" in case and rung.name == "cpu-attention-visible"}
        assert before.keys() == after.keys() - added and len(before) > 250 + 4 * GRANTED
        changed = {case.partition(" ")[0] for case in before if before[case] != after[case]}
        assert "f16-f16" not in changed, rung.name
        elsewhere = rung.name == "cpu-attention-arm" and platform.machine().lower() in ("x86_64", "amd64")
        assert (rung.header.changes_numerics and not elsewhere) or not changed, rung.name


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_build_says_that_it_has_it():
    fetch(HERE)
    folder = artifacts.build(trees.patched(), cmake.flags(), print)
    assert "cpu-attention" in json.loads((folder / "manifest.json").read_text())["features"]
