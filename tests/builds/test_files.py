"""A build names the compile database in which an editor finds the series' files."""

import json
import re
from pathlib import Path

import pytest

from kvsplit_patch import paths
from kvsplit_patch.series import patchset
from tests.support.release import HERE, fetch
from tests.support.worlds import run


@pytest.mark.build
@pytest.mark.timeout(3600)
def test_a_build_names_the_compile_database_in_which_an_editor_finds_our_files(monkeypatch, tmp_path):
    for name in ("KVSPLIT_CACHE", "KVSPLIT_CHECKOUT"):
        monkeypatch.delenv(name, raising=False)
    fetch(HERE)
    monkeypatch.setenv("KVSPLIT_BUILDS", str(tmp_path / "builds"))
    output = run("build")
    database = Path(re.search(r"for an editor: (.+)", output)[1])
    assert database.name == "compile_commands.json"
    files = [entry["file"] for entry in json.loads(database.read_text())]
    # Upstream compiles some of its folders several files at a time.
    files += [
        name for file in files if "/Unity/" in file for name in re.findall(r'#include "(.+)"', Path(file).read_text())
    ]
    for patch in patchset.load(paths.patchset_dir()).patches:
        for path in patch.files:
            if path.endswith(".cpp") and "metal" not in path:
                assert any(file.endswith(f"/{path}") for file in files), path
