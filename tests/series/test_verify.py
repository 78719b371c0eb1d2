"""verify on the real series: whole, broken, and broken in a way that only the compiler sees."""

from kvsplit_patch import paths
from kvsplit_patch.building import cmake
from kvsplit_patch.proof import report, verify
from tests.support.verdicts import results
from tests.support.worlds import run


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
