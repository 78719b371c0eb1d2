"""SIGKILL before every single file operation of every command that changes the series.

The process is a real one that really dies; an audit hook counts what Python is about to do to the file
system, so no place can be forgotten and the product carries no hook for its tests.
"""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from kvsplit_patch import journal, series
from kvsplit_patch.main import main
from tests.support.worlds import make_world, numbered, run, work_folder

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILES = {"f": numbered(), "g": numbered()}
TOOL = (0o100755, b"#!/bin/sh\n")
PATCHES = {"one": {"f": numbered(l8="one")}, "two": {"g": numbered(l8="two"), "new/two.h": b"two\n", "new/run": TOOL}}
CLASH = {"f": numbered(l25="upstream"), "g": numbered(l8="upstream")}


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a folder: these tests force thousands of small files to disk."""
    if os.access("/dev/shm", os.W_OK):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield Path(folder)
    else:
        yield tmp_path


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path / "project", {"base": FILES, "clash": CLASH}, PATCHES)


def killed(at: int, *arguments) -> bool:
    """Run a command in a child that dies before its ``at``-th change to the file system; False if it made fewer."""
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        left = at

        def count(event, args):
            nonlocal left
            if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.stdout = sys.stderr = open(silence, "w", closefd=False)  # noqa: SIM115
        sys.addaudithook(count)
        try:
            main(list(arguments), standalone_mode=True)
        except SystemExit as end:
            os._exit(end.code or 0)
        finally:
            os._exit(70)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) in (0, 1), "a traceback in the child"
    return False


def every_kill(world, prepare, *command):
    """Yield after each kill of ``command``, each time from the state that ``prepare`` leaves."""
    prepare()
    saved = world.project.parent / "saved"
    state = [world.project, world.project.parent / "cache" / "work"]
    for folder in state:
        if folder.exists():
            shutil.copytree(folder, saved / folder.name, symlinks=True)
    at = 0
    while True:
        at += 1
        for folder in state:
            shutil.rmtree(folder, ignore_errors=True)
            if (saved / folder.name).exists():
                shutil.copytree(saved / folder.name, folder, symlinks=True)
        if not killed(at, *command):
            break
        yield at
    assert at > 10, "the hook counted next to nothing"


def finish(world):
    """What a person would do after a crash: continue, resolving what is laid out, until nothing is left to do."""
    for _ in range(4):
        state = journal.read(world.project)
        if not state:
            return
        work = work_folder(world)
        if state.stopped and (work / ".git").is_dir():
            (work / "g").write_bytes(numbered(l8="two after upstream"))
        killed(10**9, "continue")
    raise AssertionError("continue does not come to an end")


def outcome(world, *commands) -> dict:
    """The series after commands run to their end from here, on a copy."""
    for command in commands:
        run(*command) if command[0] != "rebase" else killed(10**9, *command)
        finish(world)
    return world.files()


def start_clash():
    killed(10**9, "rebase", "clash")


def nothing():
    pass


def check_whole(world, old, new):
    now = world.files() if world.patchset.is_dir() else None
    assert now in (old, new), "the series is neither the old nor the new one"


@pytest.fixture
def old_and_new(world):
    """The series before the rebase to ``clash`` and after it, with its conflict resolved; the world is put back."""
    old = world.files()
    new = outcome(world, ["rebase", "clash"])
    assert new != old
    run("undo")
    shutil.rmtree(world.project / ".git" / "kvsplit")
    return old, new


@pytest.mark.parametrize("command", ["rebase", "continue"])
def test_continue_after_a_kill_anywhere(world, old_and_new, command):
    old, new = old_and_new
    arguments, prepare = (["rebase", "clash"], nothing) if command == "rebase" else (["continue"], resolved(world))
    for at in every_kill(world, prepare, *arguments):
        check_whole(world, old, new)
        began = journal.read(world.project)
        finish(world)
        assert world.files() == (new if began or command == "continue" else old), f"kill {at}"
        assert not (world.project / ".kvsplit-next").exists() or not began
        run("lint")


def resolved(world):
    def prepare():
        start_clash()
        (work_folder(world) / "g").write_bytes(numbered(l8="two after upstream"))

    return prepare


@pytest.mark.parametrize("command", ["rebase", "continue", "skip", "abort"])
def test_abort_after_a_kill_anywhere(world, old_and_new, command):
    old, new = old_and_new
    if command == "skip":
        start_clash()
        run("skip")
        new = world.files()
        run("undo")
    arguments = ["rebase", "clash"] if command == "rebase" else [command]
    for at in every_kill(world, nothing if command == "rebase" else resolved(world), *arguments):
        check_whole(world, old, new)
        if journal.read(world.project):
            swapped = world.files() == new
            said = run("abort")
            assert world.files() == (new if swapped else old), f"kill {at}"
            assert ("undo takes it back" in said) == swapped
        assert not journal.read(world.project)
        run("lint")
        assert "is not finished" not in run("rebase", "clash", code=0 if world.files() == new else 1)
        if journal.read(world.project):
            run("abort")


def test_kill_in_undo(world, old_and_new):
    old, new = old_and_new
    outcome(world, ["rebase", "clash"])
    for at in every_kill(world, nothing, "undo"):
        check_whole(world, old, new)
        if journal.read(world.project):
            run("continue")
            assert world.files() == old, f"kill {at}"
        run("lint")


def test_where_folders_cannot_be_exchanged_a_kill_is_mended(world, old_and_new, monkeypatch):
    """Some file systems cannot exchange two folders; then there is a moment without patchset/, and the journal mends it."""
    old, new = old_and_new
    monkeypatch.setattr("kvsplit_patch.folders._exchange", lambda one, other: False)
    missing = 0
    for _ in every_kill(world, resolved(world), "continue"):
        missing += not world.patchset.is_dir()
        assert not world.patchset.is_dir() or world.files() in (old, new)
        finish(world)
        assert world.files() == new
    assert missing


def test_a_full_disk_leaves_the_old_series(world):
    """A file size limit makes the kernel refuse a write in the middle of a file, as a full disk does."""
    import resource

    before = world.files()
    big = numbered(3000, **{f"l{number}": f"new {number} " + "x" * 40 for number in range(1, 3000)})
    run("apply", world.project.parent / "work")
    (world.project.parent / "work" / "f").write_bytes(big)
    command = ["new", "big", str(world.project.parent / "work"), "--description", "big", "--author", "A <a@b>"]
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            run(*command, code=1)
            os._exit(0)
        finally:
            os._exit(70)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert world.files() == before
    assert journal.read(world.project), "the change waits for room"
    run("continue")
    assert series.load(world.patchset).names() == ["one", "two", "big"]
    run("lint")
