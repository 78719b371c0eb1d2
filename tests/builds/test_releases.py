"""Each patch compiles on those before it."""

import pytest

from kvsplit_patch import series
from tests.support.release import HERE, fetch
from tests.support.worlds import run


@pytest.mark.build
@pytest.mark.timeout(3600)
def test_every_prefix_of_the_series_compiles_and_a_broken_one_is_named(project, tmp_path):
    fetch(HERE)
    said = run("lint", "--build-each")
    for name in series.load(project / "patchset").names():
        assert f"{name}.patch compiles on the patches before it." in said

    work = tmp_path.parent / f"{tmp_path.name}-work"
    run("apply", work)
    with open(work / "src" / "llama.cpp", "a") as file:
        file.write("#error planted\n")
    run("new", "broken", work, "--description", "Does not compile", "--author", "A Person <person@example.org>")
    assert "broken.patch does not compile on the patches before it" in run("lint", "--build-each", code=1)
