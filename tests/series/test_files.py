"""What a patch adds lies as files in ``patchset/NAME/``; its ``.patch`` holds only what it changes."""

import os
import subprocess
from base64 import b64decode

import pygit2
import pytest

from kvsplit_patch import folders, gitdiff, paths, proposal, replay, series, store
from kvsplit_patch.errors import PatchError
from kvsplit_patch.github import GitHub
from tests.support import github as hubs
from tests.support.release import HERE, fetch
from tests.support.worlds import make_commit, make_world, numbered, run, work_folder

pytestmark = pytest.mark.usefixtures("cache")

BASE = {"src/f.c": numbered(), "g": numbered()}
ODD = {
    "src/crlf.h": b"a\r\nb\r\n",
    "src/no newline.txt": b"one\ntwo",
    "latin.c": b"/* caf\xe9 */\n",
    "sub/dir/run": (gitdiff.EXECUTABLE, b"#!/bin/sh\n"),
    "empty": b"",
    "CMakeLists.txt": b"x\n---\ndiff --git a/x b/x\n",
}
ONE = {"src/f.c": numbered(l8="one"), **ODD}
TWO = {"sub/only.h": b"two\n"}
WHO = ["--author", "A Person <person@example.org>"]


@pytest.fixture
def world(tmp_path):
    """``one`` changes a file and adds odd ones, ``two`` only adds one."""
    targets = {"base": BASE, "next": {**BASE, "other": b"1\n", "g": numbered(l3="upstream")}}
    return make_world(tmp_path / "project", targets, {"one": ONE, "two": TWO})


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def plain_diff(before: str, after: str) -> bytes:
    """What git itself says of two trees of the store, whole: the form in which a patch brought its files before."""
    command = ["git", "-C", store.store_dir(), "diff", "--no-ext-diff", "--no-renames", "--full-index", before, after]
    return subprocess.run(command, check=True, capture_output=True).stdout


def flatten(patchset):
    """Make every patch of a folder one diff again, with nothing beside it."""
    loaded = series.load(patchset)
    before = loaded.lock.base_tree
    for patch, locked in zip(loaded.patches, loaded.lock.patches):
        text = series.Patch(patch.name, patch.header, plain_diff(before, locked.tree), {}).text()
        (patchset / f"{patch.name}.patch").write_bytes(text)
        for path in patch.files:
            (patchset / patch.name / path).unlink()
        before = locked.tree


def test_what_is_new_is_a_file_byte_for_byte(world):
    files = world.files()
    assert {path for path in files if "/" in path} == {*(f"one/{path}" for path in ODD), "two/sub/only.h"}
    for path, content in ODD.items():
        assert files[f"one/{path}"] == (content if isinstance(content, tuple) else (gitdiff.FILE, content))
    assert files["one.patch"][1].count(b"diff --git") == 1 and b"new file" not in files["one.patch"][1]
    assert files["two.patch"][1].endswith(b"Last-Update: 2026-10-01\n---\n")
    run("lint")
    run("export", "--check")
    assert "one                    7 files  +" in run("status")


def test_both_forms_give_the_same_trees_and_export_makes_files_of_the_old_one(world):
    here, there = replay.apply_series(), replay.apply_series(world.commits["next"])
    files = world.files()
    flatten(world.patchset)
    assert b"new file" in (world.patchset / "one.patch").read_bytes()
    assert (replay.apply_series(), replay.apply_series(world.commits["next"])) == (here, there)
    run("export")
    assert world.files() == files


def test_the_projects_own_series_is_the_same_in_both_forms(tmp_path, monkeypatch):
    monkeypatch.delenv("KVSPLIT_CACHE")  # the real sources
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path / "project"))
    fetch(HERE)
    pygit2.init_repository(str(tmp_path / "project"))
    monkeypatch.delenv("KVSPLIT_CHECKOUT")
    ours = folders.read(paths.patchset_dir())
    folders.write(tmp_path / "project" / "patchset", ours)
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path / "project"))
    applied, ids = replay.apply_series(), [p.patch_id() for p in series.load(tmp_path / "project/patchset").patches]
    flatten(tmp_path / "project" / "patchset")
    assert replay.apply_series() == applied
    assert [patch.patch_id() for patch in series.load(tmp_path / "project/patchset").patches] == ids
    run("export")
    assert folders.read(tmp_path / "project" / "patchset") == ours


def test_a_rebase_that_touches_no_hunk_is_clean_and_leaves_the_files_alone(world):
    before = world.files()
    run("rebase", "next")
    after = world.files()
    assert {path for path in before if before[path] != after[path]} == {"lock.json"}
    run("lint")
    run("undo")
    assert world.files() == before


def test_refresh_puts_new_files_beside_the_patch_and_never_into_it(world, work):
    run("apply", work)
    (work / "sub" / "more.h").write_bytes(b"more\r\n")
    (work / "sub" / "only.h").write_bytes(b"two, better\n")
    run("refresh", work)
    assert (world.patchset / "two/sub/more.h").read_bytes() == b"more\r\n"
    assert (world.patchset / "two/sub/only.h").read_bytes() == b"two, better\n"
    assert b"diff --git" not in (world.patchset / "two.patch").read_bytes()
    run("lint")


def test_a_file_deleted_renamed_and_made_executable(world, work):
    run("apply", work, "--through", "one")
    (work / "empty").unlink()
    (work / "latin.c").rename(work / "src" / "moved.c")
    (work / "src" / "crlf.h").chmod(0o755)
    assert "two: clean" in run("refresh", work)
    files = world.files()
    assert "one/empty" not in files and "one/latin.c" not in files
    assert files["one/src/moved.c"] == (gitdiff.FILE, ODD["latin.c"])
    assert files["one/src/crlf.h"] == (gitdiff.EXECUTABLE, ODD["src/crlf.h"])
    assert os.access(world.patchset / "one/src/crlf.h", os.X_OK)
    run("lint")
    assert world.result()["src/crlf.h"][0] == gitdiff.EXECUTABLE


def test_an_edit_in_place_is_taken_by_export(world):
    (world.patchset / "one" / "latin.c").write_bytes(b"/* \xe9dited */\n")
    (world.patchset / "one" / "src" / "new.h").write_bytes(b"new\n")
    (world.patchset / "one" / "empty").unlink()
    patch = world.patchset / "one.patch"
    patch.write_bytes(patch.read_bytes().replace(b"Forwarded: no", b"Forwarded: not-needed"))
    said = run("lint", code=1)
    assert "one.patch is not the patch that lock.json names" in said and "has 4 faults" in said
    assert "patchset/one/latin.c is not the file that lock.json names: run kvsplit-patch export" in said
    assert "patchset/one/src/new.h is not known to lock.json: run kvsplit-patch export to take it in" in said
    assert "patchset/one/empty is not there, and lock.json names it" in said
    assert "one/src/new.h" not in run("export", "--check", code=1)  # the file is as it should be, the lock is not
    run("export")
    run("lint")
    result = world.result()
    assert series.load(world.patchset).patches[0].header.forwarded == "not-needed"
    assert result["latin.c"][1] == b"/* \xe9dited */\n" and result["src/new.h"][1] == b"new\n" and "empty" not in result


def test_lint_finds_a_changed_mode_a_stray_folder_a_link_and_a_binary_file(world):
    (world.patchset / "two/sub/only.h").chmod(0o755)
    (world.patchset / "tow").mkdir()
    (world.patchset / "tow" / "x.h").write_bytes(b"x\n")
    said = run("lint", code=1)
    assert "patchset/two/sub/only.h has the mode 100755, and 100644 in lock.json" in said
    assert "patchset/tow/ is the folder of no patch in patchset/series" in said
    (world.patchset / "two/link").symlink_to("sub")
    assert "patchset/two/link is a link" in run("lint", code=1)
    (world.patchset / "two/link").unlink()
    (world.patchset / "two/logo.png").write_bytes(b"\x89PNG\0")
    for command in ("lint", "export", "status"):
        assert "patchset/two/logo.png is a binary file" in run(command, code=1)
    (world.patchset / "two/logo.png").unlink()
    (world.patchset / "two/\N{LATIN SMALL LETTER E WITH ACUTE}.h").write_bytes(b"x\n")
    for command in ("lint", "export", "status"):
        assert r"patchset/two/ changes '\xc3\xa9.h', a name git would quote" in run(command, code=1)


def test_files_of_others_stay_and_a_dropped_patchs_go(world):
    (world.patchset / "drafts").mkdir()
    (world.patchset / "drafts" / "x.patch").write_bytes(b"not ours\n")
    (world.patchset / ".clang-format").write_bytes(b"---\n")
    (world.patchset / "series").write_text("one.patch\n")
    run("export")
    files = world.files()
    assert not {path for path in files if path.startswith("two")}
    assert files["drafts/x.patch"][1] == b"not ours\n" and files[".clang-format"][1] == b"---\n"


def test_a_new_link_stays_in_the_diff(world, work):
    run("apply", work)
    (work / "link").symlink_to("g")
    run("new", "three", work, "--description", "x", *WHO)
    assert b"new file mode 120000" in (world.patchset / "three.patch").read_bytes()
    assert not (world.patchset / "three").exists()
    run("lint")


def test_a_later_patch_changes_an_earlier_ones_file_by_hunks(world, work):
    run("apply", work)
    (work / "sub" / "only.h").write_bytes(b"two\nthree\n")
    (work / "src" / "crlf.h").unlink()
    run("new", "three", work, "--description", "x", *WHO)
    three = series.load(world.patchset).patches[2]
    assert not three.files and set(three.touched()) == {"sub/only.h", "src/crlf.h"}
    assert world.result()["sub/only.h"][1] == b"two\nthree\n" and "src/crlf.h" not in world.result()
    run("lint")
    assert (world.patchset / "two/sub/only.h").read_bytes() == b"two\n"


def test_an_edit_in_place_reaches_later_patches_and_may_need_a_person(tmp_path):
    header = numbered().replace(b"line", b"ours")
    patches = {"one": {"n.h": header}, "two": {"n.h": header.replace(b"ours 8\n", b"two\n")}}
    world = make_world(tmp_path / "p", {"base": BASE}, patches)
    (world.patchset / "one/n.h").write_bytes(header.replace(b"ours 25\n", b"edited\n"))
    assert "two: clean" in run("export")
    assert world.result()["n.h"][1] == header.replace(b"ours 8\n", b"two\n").replace(b"ours 25\n", b"edited\n")
    run("lint")
    (world.patchset / "one/n.h").write_bytes(header.replace(b"ours 8\n", b"edited\n"))
    assert "export stopped at two (conflict)" in run("export", code=1)
    (work_folder(world) / "n.h").write_bytes(header.replace(b"ours 8\n", b"both\n"))
    run("continue")
    assert world.result()["n.h"][1] == header.replace(b"ours 8\n", b"both\n")
    run("lint")


def test_upstream_adds_the_same_path(world):
    make_commit({**BASE, "sub/only.h": b"upstream's\n"}, "clash")
    commit = store.find_commit(store.open_store(), "clash")
    said = run("rebase", "--plan", "clash")
    assert "two                  conflict\n      sub/only.h: upstream has a file there, and the patch adds one" in said
    with pytest.raises(
        PatchError, match="two does not replay onto .* .conflict; sub/only.h: upstream has a file there"
    ):
        replay.apply_series(commit)
    said = run("rebase", "clash", code=1)
    assert "two: conflict\n    sub/only.h: upstream has a file there" in said
    work = work_folder(world)
    subprocess.run(["git", "checkout", "--ours", "sub/only.h"], cwd=work, check=True, capture_output=True)
    (work / "sub" / "ours.h").write_bytes(b"two\n")
    run("continue")
    assert {path for path in world.files() if path.startswith("two/")} == {"two/sub/ours.h"}
    assert world.result()["sub/only.h"][1] == b"upstream's\n"
    run("lint")


def test_a_file_that_the_base_has_is_named(world):
    (world.patchset / "two" / "g").write_bytes(b"mine\n")
    for command in (["lint"], ["export"], ["apply", world.project.parent / "work"]):
        said = run(*command, code=1)
        assert "two adds g, which is there already before it" in said or "two/g is not known to lock.json" in said


def test_a_patch_that_says_and_brings_a_file_is_refused(world):
    flatten(world.patchset)
    (world.patchset / "two/sub").mkdir(parents=True, exist_ok=True)
    (world.patchset / "two/sub/only.h").write_bytes(b"two\n")
    assert "two adds sub/only.h, which is there already before it" in run("export", code=1)


def test_nothing_to_carry_is_named(world):
    (world.patchset / "two/sub/only.h").unlink()
    assert "two.patch holds no diff and patchset/two/ no file" in run("lint", code=1)
    with open(world.patchset / "two.patch", "ab") as file:
        file.write(b"--- a/g\n+++ b/g\n@@ -1 +1 @@\n-line 1\n+x\n")
    assert "two.patch has text under its header that is no git diff" in run("lint", code=1)


def test_crlf_line_ends_in_a_patch_are_called_so(world):
    for name in ("one.patch", "two.patch"):
        file = world.patchset / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for command in ("lint", "status"):
        assert "one.patch has CRLF line ends: restore it with git checkout, or save it with LF" in run(command, code=1)
    head, _, diff = (world.patchset / "one.patch").read_bytes().partition(b"diff --git ")
    (world.patchset / "one.patch").write_bytes(head.replace(b"\r\n", b"\n") + b"diff --git " + diff)
    assert "one.patch has CRLF line ends" in run("lint", code=1)


@pytest.mark.parametrize(
    ("old", "new"), [(b"a/src/f.c b/src/f.c", b"a/\xe9.c b/\xe9.c"), (b"index ", b"new file mode 10x644\nindex ")]
)
def test_a_spoilt_patch_is_one_sentence_to_every_command(world, old, new):
    file = world.patchset / "one.patch"
    file.write_bytes(file.read_bytes().replace(old, new))
    for command in ("lint", "export", "status"):
        assert "one.patch" in run(command, code=1)


def test_the_nightly_branch_carries_files_and_modes(world):
    repo = pygit2.Repository(str(world.project))
    repo.index.add_all()
    who = pygit2.Signature("maintainer", "maintainer@example.org", 1, 0)
    repo.create_commit("HEAD", who, who, "The series\n", repo.index.write_tree(), [])
    files = proposal.refreshed(series.load(world.patchset), world.commits["next"], "next")
    assert proposal.branch(world.project, files, "moved\n") and not proposal.branch(world.project, files, "moved\n")
    tree = repo.references["refs/heads/nightly/series"].peel(pygit2.Tree)["patchset"].id
    assert {path: (mode, repo[blob].data) for path, mode, blob in store.entries(repo, tree)} == files
    assert files["one/sub/dir/run"][0] == gitdiff.EXECUTABLE


def test_the_pull_request_carries_files_that_are_no_utf8_and_modes(world):
    files = proposal.refreshed(series.load(world.patchset), world.commits["next"], "next")
    with hubs.serving() as hub:
        client = GitHub(hubs.REPOSITORY, hubs.TOKEN, hub.url, pause=0.01)
        for _ in "12":
            proposal.propose(client, files, "moved", "why")
        assert len(hub.pulls) == 1
        tree = hub.objects[hub.objects[hub.refs["heads/nightly/series"]]["tree"]]["tree"]
    entries = {entry["path"].removeprefix("patchset/"): entry for entry in tree}
    assert entries.keys() == files.keys() and entries["one/sub/dir/run"]["mode"] == "100755"
    for path, (_, data) in files.items():
        entry = entries[path]
        sent = entry["content"].encode() if "content" in entry else b64decode(hub.objects[entry["sha"]]["content"])
        assert sent == data
    assert "sha" in entries["one/latin.c"]
