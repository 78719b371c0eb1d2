"""verify on the real series: whole, and broken in a way that only the compiler sees."""

import pytest

from kvsplit_patch.building import cmake
from kvsplit_patch.proof import verify
from tests.support.planted import Fault, plant
from tests.support.verdicts import results
from tests.support.worlds import run

NOT_CPP = Fault("not-cpp", "common/kvq.h", (("#pragma once\n", "#pragma once\n\nthis is not C++;\n"),))


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_a_patch_that_does_not_compile_fails_the_build_only(upstream_here, project):
    plant(NOT_CPP, project / "work")
    verdict = verify.verify(None, cmake.flags(), print)
    # The libraries hold nothing of common/, so abi has what it needs; the programs do not compile.
    assert results(verdict) == {
        "replay": "ok", "lint": "ok", "build": "failed", "abi": "ok", "optests": "skipped", "softmetal": "skipped", "smoke": "skipped"
    }  # fmt: skip
    assert "kvq.h" in verdict.problems[0]


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_series_as_it_is_passes_everything(upstream_here, project):
    verdict = verify.verify(None, cmake.flags(), print)
    assert verdict.problems == []
    assert set(results(verdict).values()) == {"ok"}
    assert "K8V4" in run("report") and 'failures="0"' in run("report", "--format", "junit")
