"""verify on the real series: whole, broken, and broken in a way that only the compiler sees."""

import pytest

from kvsplit_patch import cmake, paths, report, verify
from tests.support.release import HERE, fetch
from tests.support.worlds import run


def results(verdict):
    return {
        check.name: "skipped" if check.skipped else "failed" if check.problems else "ok" for check in verdict.checks
    }


@pytest.fixture
def upstream_here(monkeypatch, tmp_path):
    fetch(HERE)
    monkeypatch.setenv("KVSPLIT_BUILDS", str(tmp_path / "builds"))  # a broken series' build serves no other test
    monkeypatch.setattr(verify, "file", lambda: tmp_path / "verdict.json")  # leave a developer's last one alone


def test_a_series_that_does_not_apply_stops_what_needs_it(upstream_here, project):
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
