"""verify on the real series, beside a developer's own."""

import pytest

from kvsplit_patch.proof import verify

from .release import HERE, fetch


def results(verdict):
    """Each check's name, and "ok", "failed" or "skipped"."""
    return {
        check.name: "skipped" if check.skipped else "failed" if check.problems else "ok" for check in verdict.checks
    }


@pytest.fixture
def upstream_here(monkeypatch, tmp_path):
    fetch(HERE)
    monkeypatch.setenv("KVSPLIT_BUILDS", str(tmp_path / "builds"))  # a broken series' build serves no other test
    monkeypatch.setattr(verify, "file", lambda: tmp_path / "verdict.json")  # leave a developer's last one alone
