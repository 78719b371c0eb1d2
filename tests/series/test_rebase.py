"""Carrying a series over, with and without a person's help, through the commands."""

import os
import shutil
import subprocess
import sys

import pytest

from kvsplit_patch.series import journal, patchset
from tests.support.worlds import make_commit, make_world, numbered, run, work_folder

pytestmark = pytest.mark.usefixtures("cache")

BASE = {"f": numbered(), "g": numbered(), "h": numbered()}
ONE, TWO, THREE = {"f": numbered(l8="one")}, {"g": numbered(l8="two")}, {"h": numbered(l8="three")}


@pytest.fixture
def world(tmp_path):
    """Three patches; on ``clean`` all replay, on ``clash`` the second meets a change of its line."""
    targets = {
        "base": BASE,
        "clean": {path: data + b"upstream\n" for path, data in BASE.items()},
        "clash": {**BASE, "g": numbered(l8="upstream"), "h": numbered(l25="upstream")},
    }
    headers = {
        "one": {"watch": ("dep/", "x*.h")},
        "three": {"changes_numerics": ("K4V4", "K8V4"), "bug": "https://example.org/1"},
    }
    return make_world(tmp_path / "project", targets, {"one": ONE, "two": TWO, "three": THREE}, **headers)


def resolve(world, path="g", data=None):
    (work_folder(world) / path).write_bytes(data or numbered(l8="two after upstream"))


def test_a_clean_rebase_moves_lock_and_patches(world):
    said = run("rebase", "clean")
    assert "one: clean" in said and "patchset/ is in place" in said
    lock = patchset.read_lock(world.patchset)
    assert (lock.upstream.commit, lock.upstream.tag) == (world.commits["clean"], "clean")
    assert {path: data for path, (_, data) in world.result().items()} == {
        "f": ONE["f"] + b"upstream\n",
        "g": TWO["g"] + b"upstream\n",
        "h": THREE["h"] + b"upstream\n",
    }
    run("lint")
    run("export", "--check")
    assert "stands on" in run("rebase", "clean")


def test_there_and_back_gives_the_same_bytes(world):
    before = world.files()
    run("rebase", "clean")
    assert world.files() != before
    run("rebase", "base")
    assert world.files() == before


def test_a_plan_changes_nothing(world):
    before = world.files()
    said = run("rebase", "--plan", "clash")
    assert "one                  clean\n" in said
    assert "two                  conflict\n      g: upstream changed" in said
    assert "three                clean (without" in said
    assert world.files() == before and not journal.read(world.project)
    assert "No change" in run("continue", code=1)


def test_a_conflict_is_laid_out_and_continue_takes_the_resolution(world):
    before = world.files()
    assert "two (conflict)" in run("rebase", "clash", code=1)
    assert world.files() == before
    shown = (work_folder(world) / "g").read_bytes()
    assert b"<<<<<<< ours\nupstream\n||||||| ancestor\nline 8\n=======\ntwo\n>>>>>>> theirs\n" in shown
    git = subprocess.run(
        ["git", "log", "-1", "--format=%B"], cwd=work_folder(world), capture_output=True, text=True, check=True
    )
    assert git.stdout.strip() == "one: what it does\n\nPatch: one"
    assert "stopped at two (conflict)" in run("status")

    said = run("continue", code=1)
    assert "g:8 still has a conflict marker" in said
    assert "rebase to clash is not finished" in run("rebase", "clean", code=1)

    headers = [patch.header for patch in patchset.load(world.patchset).patches]
    resolve(world)
    work = work_folder(world)
    said = run("continue")
    assert [patch.header for patch in patchset.load(world.patchset).patches] == headers
    assert "two: resolved" in said and "three: clean" in said
    assert "now removes lines of upstream" in said and "    upstream" in said
    assert not work.exists()
    assert {path: data for path, (_, data) in world.result().items()} == {
        "f": ONE["f"],
        "g": numbered(l8="two after upstream"),
        "h": numbered(l8="three", l25="upstream"),
    }
    run("lint")


def test_new_and_executable_files_of_a_resolution_are_taken_ignored_ones_not(world):
    run("rebase", "clash", code=1)
    resolve(world)
    work = work_folder(world)
    (work / "new.h").write_bytes(b"new\r\n")
    (work / "run.sh").write_bytes(b"#!\n")
    (work / "run.sh").chmod(0o755)
    (work / ".gitignore").write_bytes(b"*.o\n")
    (work / "junk.o").write_bytes(b"junk\n")
    assert "two now also changes:\n    .gitignore\n    new.h\n    run.sh\n" in run("continue")
    result = world.result()
    assert result["new.h"] == (0o100644, b"new\r\n") and result["run.sh"] == (0o100755, b"#!\n")
    assert "junk.o" not in result


def test_skip_drops_only_that_patch(world):
    run("rebase", "clash", code=1)
    assert "two: dropped" in run("skip")
    assert patchset.load(world.patchset).names() == ["one", "three"]
    assert not (world.patchset / "two.patch").exists()
    run("lint")


def test_abort_puts_nothing_behind(world):
    before = world.files()
    run("rebase", "clash", code=1)
    work = work_folder(world)
    assert "as it was" in run("abort")
    assert world.files() == before and not work.exists()
    assert "No change" in run("abort", code=1)
    run("rebase", "clean")


def test_undo_and_undo_of_it(world):
    before = world.files()
    run("rebase", "clean")
    after = world.files()
    run("undo")
    assert world.files() == before
    run("undo")
    assert world.files() == after
    (world.patchset / "series").write_text("one.patch\n")
    assert "was changed after" in run("undo", code=1)


def test_a_resolution_that_loses_the_patchs_lines_is_shown(world):
    run("rebase", "clash", code=1)
    resolve(world, data=numbered(l8="upstream", l9="something else"))
    assert "two no longer brings:\n    +two" in run("continue").replace("    -line 8\n", "")


def test_an_empty_resolution_is_not_a_drop(world):
    run("rebase", "clash", code=1)
    resolve(world, data=numbered(l8="upstream"))
    assert "skip' to drop" in run("continue", code=1)
    run("skip")


@pytest.mark.parametrize("heading", [b"=======\n", b"=======\r\n", b"==========\n"])
def test_a_heading_of_equal_signs_is_no_conflict_marker(tmp_path, heading):
    """An RST or C heading that a side had before is none; a new one is, until `git add` says otherwise."""
    head = b"Heading\n" + heading
    base = {"g": head + numbered()}
    clash, two = ({"g": head + numbered(l8=line)} for line in ("upstream", "two"))
    world = make_world(tmp_path / "p", {"base": base, "clash": clash}, {"two": two})
    run("rebase", "clash", code=1)
    assert "g:10 still has a conflict marker" in run("continue", code=1)
    left = numbered(l8="two after upstream").replace(b"two after", b"=======\ntwo after")
    resolve(world, data=head + left)
    assert "is =======: remove it, or say 'git add' to keep it" in run("continue", code=1)
    resolve(world, data=head + numbered(l8="two after upstream"))
    run("continue")
    assert world.result()["g"][1] == head + numbered(l8="two after upstream")


def test_a_new_heading_is_kept_by_git_add_and_a_real_marker_is_not(world):
    run("rebase", "clash", code=1)
    work = work_folder(world)
    subprocess.run(["git", "add", "g"], cwd=work, check=True)
    assert "g:8 still has a conflict marker" in run("continue", code=1)
    new = b"New\n=======\n" + numbered(l8="two after upstream")
    run("abort")
    run("rebase", "clash", code=1)
    resolve(world, data=new)
    assert "g:2 is =======: remove it, or say 'git add' to keep it" in run("continue", code=1)
    subprocess.run(["git", "add", "g"], cwd=work, check=True)
    run("continue")
    assert world.result()["g"][1] == new


def test_a_file_about_conflicts_keeps_its_markers(tmp_path):
    about = b"<<<<<<< ours\n=======\n>>>>>>> theirs\n"
    base = {"g": about + numbered()}
    clash, two = ({"g": about + numbered(l8=line)} for line in ("upstream", "two"))
    world = make_world(tmp_path / "p", {"base": base, "clash": clash}, {"two": two})
    run("rebase", "clash", code=1)
    assert "still has a conflict marker" in run("continue", code=1)
    resolve(world, data=about + numbered(l8="both"))
    run("continue")


def test_a_deleted_file_asks_for_git_rm_or_add(world):
    make_commit({"f": BASE["f"], "h": BASE["h"]}, "gone")
    assert "g: upstream deleted or moved it" in run("rebase", "gone", code=1)
    work = work_folder(world)
    assert "say 'git add' to keep it or 'git rm'" in run("continue", code=1)
    subprocess.run(["git", "rm", "--quiet", "g"], cwd=work, check=True)
    (work / "elsewhere").write_bytes(b"two\n")
    run("continue")
    assert set(world.result()) == {"f", "h", "elsewhere"}


def test_keeping_a_deleted_file_works_too(world):
    make_commit({"f": BASE["f"], "h": BASE["h"]}, "gone")
    run("rebase", "gone", code=1)
    subprocess.run(["git", "add", "g"], cwd=work_folder(world), check=True)
    run("continue")
    assert world.result()["g"][1] == TWO["g"]


def test_a_patch_that_upstream_took_is_never_dropped_by_itself(world):
    before = world.files()
    make_commit({**BASE, **TWO}, "took")
    assert "two (already upstream)" in run("rebase", "took", code=1)
    assert world.files() == before
    assert "skip' to drop" in run("continue", code=1)
    run("skip")
    assert patchset.load(world.patchset).names() == ["one", "three"]


def test_a_half_taken_patch_asks_and_keeps_the_rest(tmp_path):
    both = {"f": numbered(l8="one"), "g": numbered(l8="also one")}
    world = make_world(tmp_path / "p", {"base": BASE, "half": {**BASE, "f": both["f"]}}, {"one": both})
    said = run("rebase", "half", code=1)
    assert "one (partly upstream)" in said and "    +one\n" in said
    run("continue")
    assert patchset.load(world.patchset).patches[0].touched() == ("g",)


def test_a_lost_work_folder_is_laid_out_again(world):
    run("rebase", "clash", code=1)
    subprocess.run(["rm", "-r", work_folder(world)], check=True)
    assert "stopped at two" in run("continue", code=1)
    resolve(world)
    run("continue")


def test_an_emptied_cache_is_named_and_abort_still_works(world, cache):
    before = world.files()
    run("rebase", "clash", code=1)
    shutil.rmtree(cache)
    for command in ("continue", "skip"):
        assert "cache was emptied" in run(command, code=1)
    run("abort")
    assert world.files() == before


def test_a_binary_file_in_a_resolution_is_refused_while_it_can_be_taken_out(world):
    run("rebase", "clash", code=1)
    resolve(world)
    (work_folder(world) / "logo.png").write_bytes(b"\x89PNG\0")
    assert "binary file logo.png" in run("continue", code=1)
    (work_folder(world) / "logo.png").unlink()
    run("continue")
    run("lint")


def test_a_damaged_journal_is_named(world):
    run("rebase", "clash", code=1)
    (world.project / ".git" / "kvsplit" / "journal.json").write_text('{"what": "rebase"')
    for command in ("continue", "abort", "status"):
        assert "journal.json was written by another version" in run(command, code=1)


def test_each_checkout_has_a_work_folder_of_its_own(world, tmp_path):
    run("rebase", "clash", code=1)
    resolve(world)
    mine = work_folder(world)
    other = make_world(tmp_path / "other", {"base": BASE}, {"one": ONE})
    make_commit({"f": numbered(l8="upstream")}, "clash2")
    run("rebase", "clash2", code=1)
    assert work_folder(other) != mine
    run("abort")
    assert (mine / "g").read_bytes() == numbered(l8="two after upstream") and other.files()


def test_a_folder_of_somebody_elses_is_not_replaced(world):
    """Work folders lie in the cache, where anything may lie."""
    run("rebase", "clash", code=1)
    work = work_folder(world)
    shutil.rmtree(work)
    work.mkdir()
    (work / "precious").write_text("x")
    assert "is not empty" in run("continue", code=1)
    run("abort")
    assert (work / "precious").exists()


def test_editing_the_series_during_a_rebase_is_noticed(world):
    run("rebase", "clash", code=1)
    resolve(world)
    old = (world.patchset / "one.patch").read_bytes()
    (world.patchset / "one.patch").write_bytes(old + b"\n")
    assert "was edited since" in run("continue", code=1)
    (world.patchset / "one.patch").write_bytes(old)
    run("continue")
    run("lint")


def test_a_followed_rename_is_said(world):
    make_commit({"f": BASE["f"], "h": BASE["h"], "sub/g2": BASE["g"] + b"more\n"}, "moved")
    assert "two                  clean, now in sub/g2\n" in run("rebase", "--plan", "moved")
    assert "two: clean, now in sub/g2\n" in run("rebase", "moved")
    assert world.result()["sub/g2"][1] == TWO["g"] + b"more\n"


def test_files_of_others_in_patchset_stay(world):
    (world.patchset / "README").write_text("hello\n")
    run("rebase", "clean")
    assert (world.patchset / "README").read_text() == "hello\n"


def test_one_process_at_a_time(world):
    """The other process is a real one, that holds the lock until its input ends."""
    code = (
        "import sys, pathlib; from kvsplit_patch.series import journal\n"
        "with journal.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, world.project], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    before = world.files()
    for command in (["rebase", "clean"], ["continue"], ["abort"], ["undo"], ["export"]):
        assert "Another kvsplit-patch is at work" in run(*command, code=1)
    assert "two" in run("status") and "clean" in run("rebase", "--plan", "clean")  # looking is free
    other.kill()  # no clean-up: the system drops the lock
    other.wait()
    assert world.files() == before
    run("rebase", "clean")


def test_two_rebases_at_once_leave_one_whole_series(world):
    """Both start together; whichever loses says so or finds the work done, and nothing is mixed."""
    command = [sys.executable, "-m", "kvsplit_patch.main", "rebase", "clean"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
        for _ in "12"
    ]
    said = [process.communicate()[0] for process in both]
    assert 0 in [process.returncode for process in both], said
    assert all("Traceback" not in output for output in said), said
    assert not journal.read(world.project)
    run("lint")
    assert patchset.read_lock(world.patchset).upstream.commit == world.commits["clean"]
