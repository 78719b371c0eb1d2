"""Editing, exporting and checking a series through the commands."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from kvsplit_patch import paths
from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import patchset
from tests.support.worlds import make_commit, make_world, numbered, run, work_folder

pytestmark = pytest.mark.usefixtures("cache")

BASE = {"f": numbered(), "g": numbered()}
ONE = {"f": numbered(l8="one")}
TWO = {"f": numbered(l8="one", l25="two"), "new.c": b"int two;\n"}


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path / "project", {"base": BASE}, {"one": ONE, "two": TWO})


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def test_apply_gives_a_repository_with_a_commit_a_patch(world, work):
    run("apply", work)
    shown = ["git", "log", "-2", "--format=%s|%(trailers:key=Patch,valueonly,separator=)"]
    log = subprocess.run(shown, cwd=work, capture_output=True, text=True, check=True).stdout
    assert log.splitlines() == ["two: what it does|two", "one: what it does|one"]
    assert not subprocess.run(["git", "status", "--short"], cwd=work, capture_output=True, check=True).stdout
    assert (work / "f").read_bytes() == TWO["f"]
    assert "is not empty" in run("apply", work, code=1)


def test_refresh_takes_an_edit_into_its_patch_and_moves_the_rest(world, work):
    two = patchset.load(world.patchset).patches[1]
    run("apply", work, "--through", "one")
    (work / "f").write_bytes(numbered(l8="one, better"))
    assert "two: clean" in run("refresh", work)
    assert world.result()["f"][1] == numbered(l8="one, better", l25="two")
    assert patchset.load(world.patchset).patches[1].patch_id() == two.patch_id()
    run("lint")
    assert "holds no edit" in run("refresh", work, code=1)
    (work / "f").write_bytes(numbered(l8="one, best"))
    run("refresh", work)
    assert world.result()["f"][1] == numbered(l8="one, best", l25="two")
    run("undo")
    assert world.result()["f"][1] == numbered(l8="one, better", l25="two")


def test_refresh_into_a_later_patch_is_a_conflict_like_any_other(world, work):
    run("apply", work, "--through", "one")
    (work / "f").write_bytes(numbered(l8="one", l25="one wants this line"))
    assert "stopped at two (conflict)" in run("refresh", work, code=1)
    (work_folder(world) / "f").write_bytes(numbered(l8="one", l25="both"))
    run("continue")
    assert world.result()["f"][1] == numbered(l8="one", l25="both")
    assert "has changed since" in run("refresh", work, code=1)


def test_new_patches_from_one_folder(world, work):
    run("apply", work)
    who = ["--author", "A Person <person@example.org>"]
    (work / "g").write_bytes(numbered(l3="three"))
    run("new", "three", work, "--description", "Third\n\nBecause.", *who, "--watch", "f", "--watch", "dir/")
    (work / "f").unlink()
    run("new", "four", work, "--description", "Fourth", *who)
    loaded = patchset.load(world.patchset)
    assert loaded.names() == ["one", "two", "three", "four"]
    three = loaded.patches[2]
    assert three.header.watch == ("dir/", "f") and three.header.description == "Third\n\nBecause."
    assert three.touched() == ("g",) and loaded.patches[3].touched() == ("f",)
    run("lint")
    assert "already" in run("new", "one", work, "--description", "x", *who, code=1)
    assert "no name for a patch" in run("new", "../x", work, "--description", "x", *who, code=1)
    assert "was not made by 'kvsplit-patch apply'" in run(
        "new", "five", world.project, "--description", "x", *who, code=1
    )


def test_a_new_patch_with_a_binary_file_starts_nothing(world, work):
    run("apply", work)
    (work / "logo.png").write_bytes(b"\x89PNG\0")
    command = ["new", "logo", work, "--description", "x", "--author", "A Person <person@example.org>"]
    assert "binary file logo.png" in run(*command, code=1)
    assert "No change" in run("abort", code=1)


def test_an_emptied_cache_costs_no_edit(world, work, cache, tmp_path):
    run("apply", work)
    (work / "g").write_bytes(numbered(l3="three"))
    shutil.rmtree(cache)
    make_commit(BASE, "base")  # stands for the fetch that the command would make
    run("refresh", work)
    assert world.result()["g"][1] == numbered(l3="three")


def test_export_is_the_same_on_another_machine(world, tmp_path, monkeypatch, cache):
    """Another home with another git configuration, another time zone and language, another Python process and cache."""
    before = world.files()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[diff]\n noprefix = true\n context = 1\n[core]\n abbrev = 7\n autocrlf = true\n")
    environment = {
        "HOME": str(home),
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "PATH": "/usr/bin:/bin",
        "KVSPLIT_CHECKOUT": str(world.project),
        "KVSPLIT_CACHE": str(tmp_path / "cache2"),
        "PYTHONPATH": ":".join(sys.path),
    }
    shutil.copytree(cache, tmp_path / "cache2")
    subprocess.run([sys.executable, "-m", "kvsplit_patch.main", "export"], env=environment, check=True)
    assert world.files() == before
    run("export")
    assert world.files() == before


def test_a_plain_git_diff_under_a_header_gets_its_form_by_export(world, work):
    run("apply", work)
    (work / "g").write_bytes(numbered(l3="three"))
    plain = subprocess.run(["git", "diff"], cwd=work, capture_output=True, text=True, check=True).stdout
    head = "Description: Third\nAuthor: A Person <person@example.org>\nForwarded: no\nLast-Update: 2026-10-02\n---\n"
    (world.patchset / "three.patch").write_text(head + plain)
    with open(world.patchset / "series", "a") as file:
        file.write("three.patch\n")
    assert "three.patch" in run("export", "--check", code=1)
    run("lint", code=1)
    run("export")
    run("lint")
    text = (world.patchset / "three.patch").read_text()
    assert text.startswith(f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: A Person <person@example.org>\n")
    assert patchset.load(world.patchset).names() == ["one", "two", "three"]


def test_a_patch_taken_out_of_series_is_dropped_by_export(world):
    spoil(world, "series", "one.patch\n", "")
    assert "two: clean" in run("export")
    assert world.result()["f"][1] == numbered(l25="two")
    assert patchset.load(world.patchset).names() == ["two"] and not (world.patchset / "one.patch").exists()
    run("lint")


def test_another_order_is_replayed(world):
    result = world.result()
    spoil(world, "series", "one.patch\ntwo.patch", "two.patch\none.patch")
    run("export")
    assert patchset.load(world.patchset).names() == ["two", "one"] and world.result() == result
    run("lint")
    spoil(world, "series", "two.patch\none.patch", "one.patch\ntwo.patch")
    spoil(world, "one.patch", "Forwarded: no", "Forwarded: not-needed")  # and an edit along with it
    run("export")
    assert patchset.load(world.patchset).names() == ["one", "two"] and world.result() == result
    run("lint")


def test_a_lock_that_a_merge_left_wrong_is_mended_by_export_and_not_believed(world):
    before = world.files()
    lock = patchset.read_lock(world.patchset)
    wrong = replace(lock.patches[0], tree=lock.base_tree)
    (world.patchset / "lock.json").write_bytes(patchset.write_lock(replace(lock, patches=(wrong, *lock.patches[1:]))))
    assert "lock.json is not what an export gives" in run("lint", code=1)
    run("export")
    assert world.files() == before


def test_another_order_needs_the_trees_of_the_old_one(world, cache):
    spoil(world, "series", "one.patch\ntwo.patch", "two.patch\none.patch")
    shutil.rmtree(cache)
    make_commit(BASE, "base")  # stands for the fetch that the command would make
    assert "The cache lacks the trees of the old order" in run("export", code=1)


def test_a_new_order_may_need_a_person(tmp_path):
    patches = {"one": {"f": numbered(l8="one")}, "two": {"f": numbered(l8="two")}}
    world = make_world(tmp_path / "project", {"base": BASE}, patches)
    spoil(world, "series", "one.patch\n", "")
    assert "stopped at two (conflict)" in run("export", code=1)
    (work_folder(world) / "f").write_bytes(numbered(l8="two alone"))
    run("continue")
    assert world.result()["f"][1] == numbered(l8="two alone")
    run("lint")


def test_the_series_version_is_kept_in_the_lock(world):
    run("export", "--series-version", "2")
    assert patchset.read_lock(world.patchset).series_version == "2"
    run("export")
    assert patchset.read_lock(world.patchset).series_version == "2"


def spoil(world, name, old, new):
    path = world.patchset / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("series", "two.patch\n", "", "two.patch lies in patchset/ but"),
        ("series", "two.patch\n", "two.patch\nthree.patch\n", "names three.patch, which is not there"),
        ("series", "one.patch\ntwo.patch", "two.patch\none.patch", "in the same order"),
        ("one.patch", "@@ -5,7 +5,7 @@", "@@ -5,7 +5,6 @@", "hunk 1 of f"),
        ("one.patch", "+one", "+another", "one.patch is not the patch that lock.json names"),
        ("one.patch", "Forwarded: no", "Forwarded: not-needed", "another text: run 'kvsplit-patch export'"),
        ("one.patch", "Forwarded: no\n", "", "lacks the header field Forwarded"),
        ("lock.json", '"result_tree": "', '"result_tree": "0', "patchset/lock.json is not what an export gives"),
        ("lock.json", '"base_tree": "', '"base_tree": "0', "restore lock.json"),
    ],
)
def test_lint_names_each_fault(world, name, old, new, words):
    run("lint")
    spoil(world, name, old, new)
    assert words in run("lint", code=1)


def test_lint_names_all_faults_at_once(world):
    spoil(world, "one.patch", "+one", "+another")
    spoil(world, "two.patch", "Forwarded: no", "Forwarded: yes")
    said = run("lint", code=1)
    assert "one.patch is not" in said and "two.patch has the diff" in said and "has 2 faults" in said


def test_a_broken_lock_or_series_is_one_sentence(world):
    spoil(world, "series", "one.patch", "../../etc/one.patch")
    assert "'../../etc/one.patch'" in run("lint", code=1)
    (world.patchset / "lock.json").write_text("{}")
    assert "restore it with 'git checkout'" in run("status", code=1)


def test_status_shows_series_and_base(world):
    said = run("status")
    assert "series 1 in" in said and f"on llama.cpp {world.commits['base']}, base" in said
    assert "one                    1 files  +1 -1  one: what it does" in said


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("KVSPLIT_CHECKOUT")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PatchError, match="run this inside a checkout"):
        paths.checkout()
    assert patchset.read_lock(paths.patchset_dir()).upstream.url.startswith("https://")  # the package's own copy
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(tmp_path))
    assert "KVSPLIT_CHECKOUT" in run("status", code=1)


def test_an_unpacked_archive_can_be_read_but_not_changed(world):
    shutil.rmtree(world.project / ".git")
    run("status")
    run("lint")
    assert "clone the project" in run("export", code=1)


def test_a_linked_worktree_keeps_its_own_state(world, tmp_path):
    (tmp_path / "gitdir").mkdir()
    shutil.rmtree(world.project / ".git")
    (world.project / ".git").write_text("gitdir: ../gitdir\n")
    run("export", "--series-version", "2")
    assert (tmp_path / "gitdir" / "kvsplit" / "previous" / "note.json").exists()


def test_help_loads_no_libgit2():
    code = "import sys; from kvsplit_patch.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('pygit2', 'requests', 'llm', 'llama_cpp', 'numpy') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    assert "rebase" in said
