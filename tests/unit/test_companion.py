"""What the companion offers is found by name, and what is missing is told in one sentence."""

import pytest

from llm_kvsplit import companion
from llm_kvsplit.errors import KvsplitError


@pytest.mark.parametrize("name", ["compile", "metal", "page", "program"])
def test_what_the_plugin_asks_for_is_offered(name):
    assert callable(companion.function(name))


def test_an_installation_without_entry_points():
    with pytest.raises(KvsplitError, match="has lost its entry points: install it again"):
        companion.function("absent")


def test_an_entry_point_without_its_module(tmp_path, monkeypatch):
    installed = tmp_path / "another-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[llm_kvsplit]\ngone = no_such_module:function\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KvsplitError, match="cannot be imported .*no_such_module.*: install llm-kvsplit again"):
        companion.function("gone")
