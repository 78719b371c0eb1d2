"""verify on the real series: whole, broken, and broken in a way that only the compiler sees."""

import pytest

from kvsplit_patch import cmake, paths, report, verify

from .planted import Fault, plant
from .test_releases import HERE, fetch
from .test_smoke import project  # noqa: F401
from .worlds import run

NOT_CPP = Fault("not-cpp", "common/kvq.h", (("#pragma once\n", "#pragma once\n\nthis is not C++;\n"),))


def results(verdict):
    return {
        check.name: "skipped" if check.skipped else "failed" if check.problems else "ok" for check in verdict.checks
    }


@pytest.fixture
def upstream_here(monkeypatch, tmp_path):
    fetch(HERE)
    monkeypatch.setenv("KVSPLIT_BUILDS", str(tmp_path / "builds"))  # a broken series' build serves no other test
    monkeypatch.setattr(verify, "file", lambda: tmp_path / "verdict.json")  # leave a developer's last one alone


def test_a_series_that_does_not_apply_stops_what_needs_it(upstream_here, project):  # noqa: F811
    patch = paths.patchset_dir() / "marker.patch"
    patch.write_text(
        patch.read_text().replace(" target_link_libraries(llama PUBLIC ggml)", " target_link_libraries(other)")
    )
    verdict = verify.verify(None, cmake.flags(), print)
    assert results(verdict) == dict.fromkeys(("replay", "lint"), "failed") | dict.fromkeys(
        ("build", "abi", "optests", "softmetal", "smoke"), "skipped"
    )
    assert "marker.patch does not fit its base" in verdict.problems[0]
    assert verify.last() == verdict
    assert "| smoke | skipped |" in report.as_markdown(verdict)
    assert "Error: " in run("verify", code=1)


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_a_patch_that_does_not_compile_fails_the_build_only(upstream_here, project):  # noqa: F811
    plant(NOT_CPP, project / "work")
    verdict = verify.verify(None, cmake.flags(), print)
    # The libraries hold nothing of common/, so abi has what it needs; the programs do not compile.
    assert results(verdict) == {
        "replay": "ok", "lint": "ok", "build": "failed", "abi": "ok", "optests": "skipped", "softmetal": "skipped", "smoke": "skipped"
    }  # fmt: skip
    assert "kvq.h" in verdict.problems[0]


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_series_as_it_is_passes_everything(upstream_here, project):  # noqa: F811
    verdict = verify.verify(None, cmake.flags(), print)
    assert verdict.problems == []
    assert set(results(verdict).values()) == {"ok"}
    assert "K8V4" in run("report") and 'failures="0"' in run("report", "--format", "junit")
