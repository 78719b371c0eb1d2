"""The project's own series, replayed onto the llama.cpp that other llama-cpp-python releases vendor.

These are the real trees, months and thousands of commits apart. Each replay ends clean or in a conflict
that is then resolved. Downloads are kept in the ordinary cache (``KVSPLIT_CACHE``), so a second run downloads nothing.
"""

import pytest

from kvsplit_patch import paths
from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import gitdiff, patchset
from kvsplit_patch.upstream import revisions, store
from tests.support.release import HERE, fetch
from tests.support.resolving import carry
from tests.support.worlds import drop, run, series_on

RELEASES = ["0.3.35", *(pytest.param(version, marks=pytest.mark.long) for version in ("0.3.33", "0.3.31", "0.3.28"))]
#: What needs the Metal kernels of a later llama.cpp, in an order in which each can be taken out.
METAL = ("metal-iq4-nl", "metal-mixed-kernels", "metal-mixed-kv", "metal-fa-large-heads", "metal-fa-vec-zero")


def added(patch) -> set:
    changed = {
        line.raw_content for each in patch.changes() for hunk in each.hunks for line in hunk.lines if line.origin == "+"
    }
    return changed.union(*(gitdiff.split_lines(data) for _, data in patch.files.values()))


@pytest.mark.parametrize("version", RELEASES)
def test_a_release_outside_the_range_is_refused_in_words(project, version):
    fetch(HERE)
    fetch(version)
    before = patchset.digest(project / "patchset")
    for arguments in (("--plan", version), (version,)):
        said = run("rebase", *arguments, code=1)
        assert f"{version} is outside the range of the series: metal-fa-vec-zero needs ggml/src/ggml-metal/" in said
    assert patchset.digest(project / "patchset") == before
    with pytest.raises(PatchError, match="outside the range"):
        series_on(revisions.resolve("", version)[0])


@pytest.mark.parametrize("version", RELEASES)
def test_the_series_reaches_another_release(project, version):
    fetch(HERE)
    commit = fetch(version)
    # The newest patches change lines that are others there, and the test cases of kv-types stand beside those of Metal.
    newest = (
        "cpu-rotation",
        "cuda-softcap",
        "kv-scales",
        "cuda-rotation",
        "cuda-kv-store",
        "cuda-mixed-kv",
        "rpc-kv-types",
        "rpc-errors",
        "kv-4-bits",
        "metal-kv-types",
        "kv-types",
    )
    for name in (*newest, *METAL, "kv-layers"):
        drop(project, name)
    before = patchset.load(project / "patchset")
    plan = run("rebase", "--plan", version)
    assert patchset.load(project / "patchset") == before

    stopped = carry(project, version)

    assert all(f"{name:20} conflict" in plan for name in stopped)
    after = patchset.load(project / "patchset")
    assert after.names() == before.names()
    assert (after.lock.upstream.commit, after.lock.upstream.bindings) == (commit, version)
    run("lint")
    run("export", "--check")
    for old, new in zip(before.patches, after.patches):
        assert added(old) == added(new), f"{old.name} lost lines on its way"
    # What the patches left alone is upstream's, to the byte.
    steps = series_on()
    repo = store.open_store()
    touched = {path for patch in after.patches for path in patch.touched()}
    changed = repo.diff(repo[steps[0].before], repo[steps[-1].after]).deltas
    assert {delta.new_file.path for delta in changed} == touched


def test_the_pinned_release_vendors_the_locked_base():
    lock = patchset.read_lock(paths.patchset_dir())
    assert lock.upstream.bindings and fetch(lock.upstream.bindings) == lock.upstream.commit


def test_the_projects_own_series_is_whole():
    fetch(HERE)
    run("lint")
    run("export", "--check")
