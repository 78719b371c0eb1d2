import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a checkout variable that ``make_world`` may set."""
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path / "nowhere"))
    return tmp_path / "cache"
