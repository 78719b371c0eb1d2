"""A resolution that is kept: made by ``keep``, used again by whatever replays, and not believed where it does not fit."""

import io
import re
import tarfile

import pytest

from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import store
from tests.support.worlds import git, make_commit, make_world, numbered, run, series_on, tree_files, work_folder

pytestmark = pytest.mark.usefixtures("cache")

#: The patch ``two`` adds a file, too, which upstream's next commit makes wrong without a conflict.
SIZES = b"1\n2\n3\n4\n5\n6\n7\n8\n"
MENDED = SIZES.replace(b"4\n", b"4\n45\n")
BASE = {"f": numbered(), "g": numbered(), "h": numbered()}
CLASH = {**BASE, "g": numbered(l8="upstream", l20="upstream asks again")}
RESOLVED = {"g": numbered(l8="two after upstream", l20="upstream asks both"), "sizes.h": MENDED}
WHERE = "resolutions/clash/two.diff"


@pytest.fixture
def world(tmp_path):
    """Three patches that are committed; the second meets a change of its line on ``clash``."""
    patches = {
        "one": {"f": numbered(l8="one")},
        "two": {"g": numbered(l8="two"), "sizes.h": SIZES},
        "three": {"h": numbered(l8="three")},
    }
    made = make_world(tmp_path / "project", {"base": BASE, "clash": CLASH}, patches)
    commit(made)
    return made


@pytest.fixture
def kept(world):
    """The same with the resolution on ``clash`` kept."""
    run("rebase", "clash", code=1)
    for path, data in RESOLVED.items():
        (work_folder(world) / path).write_bytes(data)
    run("continue")
    assert f"patchset/{WHERE}" in run("keep")
    return world


def commit(world):
    git(world.project, "add", "patchset")
    git(world.project, "commit", "--quiet", "-m", "series")


def change_two(world, tmp_path, **files):
    """Give the patch other files, by a person's edit."""
    run("apply", tmp_path / "work", "--through", "two")
    for path, data in files.items():
        (tmp_path / "work" / path.replace("_", ".")).write_bytes(data)
    run("refresh", tmp_path / "work")


def test_the_series_is_back_and_the_decision_beside_it(world):
    before = world.files()
    run("rebase", "clash", code=1)
    for path, data in RESOLVED.items():
        (work_folder(world) / path).write_bytes(data)
    run("continue")
    moved = world.files()
    run("keep")
    text = (world.patchset / WHERE).read_text()
    assert {path: file for path, file in world.files().items() if path != WHERE} == before
    assert "+two after upstream\n" in text and "-upstream asks again\n" in text and "+45\n" in text
    assert "line 9" in text and "index " not in text
    run("lint")
    run("export", "--check")
    run("undo")
    assert {path: file for path, file in world.files().items() if path != WHERE} == moved


def test_it_is_used_by_all_that_replays(kept):
    plan = run("rebase", "--plan", "clash")
    assert "two                  resolved as kept" in plan and "conflict" not in plan
    assert "| one | ✓ | ✓ |\n| two | ✓ | ✓ kept |\n| three | ✓ | ✓ |" in run("compat", "base", "clash")
    steps = series_on(kept.commits["clash"])
    there = {path: data for path, (_, data) in tree_files(steps[-1].after).items()}
    assert there == {"f": numbered(l8="one"), "h": numbered(l8="three"), **RESOLVED}
    run("rebase", "clash")
    assert {path: data for path, (_, data) in kept.result().items()} == there
    assert WHERE in kept.files()
    run("lint")
    # On the base that it was kept for, it is done: an edit there does not bring it in again.
    run("export", "--series-version", "2")
    assert {path: data for path, (_, data) in kept.result().items()} == there


def test_a_patch_that_upstream_has_is_kept_as_dropped(world):
    make_commit({**BASE, "h": numbered(l8="three"), "f": numbered(l25="upstream")}, "has")
    assert "already upstream" in run("rebase", "has", code=1)
    run("skip")
    assert "resolutions/has/three.diff" in run("keep")
    assert patchset.load(world.patchset).names() == ["one", "two", "three"]
    assert "| two | ✓ |\n| three | ✓ kept |" in run("compat", "has")
    steps = series_on(store.find_commit(store.open_store(), "has"))
    assert steps[-1].before == steps[-1].after
    said = run("rebase", "has")
    assert "three: resolved as kept, which is to drop it" in said
    assert patchset.load(world.patchset).names() == ["one", "two"]
    run("lint")


def test_a_change_of_the_patch_elsewhere_leaves_it_valid(kept, tmp_path):
    change_two(kept, tmp_path, g=numbered(l2="more\nlines", l8="two"), sizes_h=b"0\n" + SIZES)
    run("rebase", "clash")
    there = {path: data for path, (_, data) in kept.result().items()}
    assert there["g"] == numbered(l2="more\nlines", l8="two after upstream", l20="upstream asks both")
    assert there["sizes.h"] == b"0\n" + MENDED


@pytest.mark.parametrize(
    "files",
    [
        {"g": numbered(l8="another two")},  # the very place that was decided
        {"sizes_h": b"other\n"},  # what merges without a conflict, and was mended
        {"sizes_h": b"0\n" + SIZES + SIZES},  # the place cannot be told
    ],
    ids=["decided", "mended", "twice"],
)
def test_where_it_does_not_fit_a_person_is_asked(kept, tmp_path, files):
    change_two(kept, tmp_path, **files)
    for arguments in (("rebase", "--plan", "clash"), ("rebase", "clash")):
        said = run(*arguments, code=None)
        assert f"patchset/{WHERE}: it was kept for this upstream, and does not fit the patch any more" in said
    (work_folder(kept) / "g").write_bytes(RESOLVED["g"])
    run("continue")
    run("undo")
    commit(kept)  # what keep goes back to
    run("rebase", "clash", code=1)
    (work_folder(kept) / "g").write_bytes(RESOLVED["g"])
    run("continue")
    run("keep")
    assert "resolved as kept" in run("rebase", "--plan", "clash")


def test_one_of_a_patch_that_is_gone_is_named(kept):
    stray = kept.patchset / WHERE
    stray.rename(stray.with_name("gone.diff"))
    words = "patchset/resolutions/clash/gone.diff is of no patch in patchset/series: give it the name"
    for command in (("rebase", "--plan", "clash"), ("lint",), ("compat", "clash")):
        assert words in run(*command, code=1)
    run("export", "--check")  # nothing of it concerns the base


def test_one_that_cannot_be_read_is_named(kept):
    (kept.patchset / WHERE).write_text("diff --git a/g b/g\n")
    for command in (("lint",), ("status",)):
        assert f"patchset/{WHERE} is no resolution that 'kvsplit-patch keep' wrote" in run(*command, code=1)


def test_there_is_something_to_keep(world):
    assert "stands where the last commit has it" in run("keep", code=1)
    assert "is no PACKAGE==VERSION" in run("keep", "--archive", "x", code=1)
    run("rebase", "clash", code=1)
    assert "is not finished" in run("keep", code=1)
    run("abort")


def test_where_a_merge_does_it_all_nothing_is_kept(world):
    make_commit({**BASE, "h": numbered(l25="upstream")}, "clean")
    run("rebase", "clean")
    before = patchset.read_lock(world.patchset)
    assert "Nothing is to be kept" in run("keep")
    assert patchset.read_lock(world.patchset) != before
    assert not (world.patchset / "resolutions").exists()


def test_the_package_that_has_upstreams_files_is_fetched_by_itself(world, tmp_path, monkeypatch):
    landmarks = ("CMakeLists.txt", "include/llama.h", "ggml/include/ggml.h", "src/CMakeLists.txt")
    with tarfile.open(tmp_path / "vendored-1.0.tar.gz", "w:gz") as sdist:
        for name, data in {**CLASH, **dict.fromkeys(landmarks, b"x\n")}.items():
            member = tarfile.TarInfo(f"vendored-1.0/thirdparty/llama.cpp/{name}")
            member.size = len(data)
            sdist.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    run("fetch", "--archive", "vendored==1.0", "--name", "b6")
    run("rebase", "b6", code=1)
    (work_folder(world) / "g").write_bytes(RESOLVED["g"])
    run("continue")
    run("keep", "--archive", "vendored==1.0")
    run("rebase", "b6")
    # Another machine, which has nothing yet.
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "another"))
    run("lint")
    assert (tmp_path / "another" / "upstream.git").is_dir()
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "third"))
    kept = world.patchset / "resolutions" / "b6" / "two.diff"
    kept.write_text(re.sub("Upstream-Tree: .*", f"Upstream-Tree: {'0' * 40}", kept.read_text()))
    assert "vendored==1.0 holds other files than" in run("export", code=1)


def test_a_patch_cannot_be_called_like_their_folder(world, tmp_path):
    run("apply", tmp_path / "work")
    (tmp_path / "work" / "f").write_bytes(b"edited\n")
    words = ("--description", "x", "--author", "A Person <person@example.org>")
    assert "is no name for a patch" in run("new", "resolutions", tmp_path / "work", *words, code=1)
