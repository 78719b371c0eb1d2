"""Programs are compiled for builds of this series alone; the others are named in one sentence."""

import pytest

from kvsplit_patch.building import programs
from kvsplit_patch.errors import PatchError, Unable
from llm_kvsplit.builds.shelf import Build

MANIFEST = {"patches": [{"name": "marker"}], "tree": "0" * 40, "flags": [], "libraries": {}}


def test_a_build_of_another_version_of_the_series(tmp_path):
    with pytest.raises(
        Unable, match=r"^old is of another version of the series: 'llm kvsplit backend build' makes one"
    ):
        programs.for_build(Build("old", tmp_path, MANIFEST), tmp_path / "programs" / "x" / "x", print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["patches", "tree", "flags"])
def test_a_manifest_that_does_not_say_what_it_was_made_of(tmp_path, missing):
    manifest = {name: value for name, value in MANIFEST.items() if name != missing}
    with pytest.raises(PatchError, match=f"The manifest of old lacks '{missing}': make the build anew"):
        programs.for_build(Build("old", tmp_path, manifest), tmp_path / "x", print)
