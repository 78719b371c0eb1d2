"""llama.cpp's files out of archives and folders, and remotes other than the lock's."""

import io
import os
import shutil
import tarfile
import zipfile

import pytest

from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import revisions, sdist, store
from kvsplit_patch.upstream.archive import fetch_archive
from tests.support.daemon import serving
from tests.support.release import HERE, fetch
from tests.support.worlds import git, make_world, run

LLAMA_CPP = {
    "CMakeLists.txt": b"project(llama.cpp)\n",
    "include/llama.h": b"// llama\n",
    "ggml/include/ggml.h": b"// ggml\n",
    "src/CMakeLists.txt": b"add_library(llama)\n",
    "f": b"line 1\nline 2\n",
}


@pytest.fixture
def checkout(tmp_path):
    """A small llama.cpp in git, with a program and a link; its folder and its commit."""
    folder = tmp_path / "llama.cpp"
    for name, data in LLAMA_CPP.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("src/CMakeLists.txt")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder, git(folder, "rev-parse", "HEAD")


def tree_of(commit: str) -> str:
    return store.tree_of(store.open_store(), commit)


def test_the_files_of_a_published_sdist_make_upstreams_own_tree():
    """What the release vendors as files, and as git objects: the same tree, so the same commit."""
    commit = fetch(HERE)
    assert fetch_archive(sdist.download_sdist(HERE), "as-files") == commit


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", ["tar.gz", "zip", "folder"])
def test_an_archive_is_imported_by_content(checkout, tmp_path, kind):
    folder, commit = checkout
    path = folder
    if kind != "folder":
        path = tmp_path / f"llama.cpp-b5.{kind}"
        git(folder, "archive", f"--format={kind}", "--prefix=llama.cpp-b5/", f"--output={path}", "HEAD")
    imported = run("fetch", "--archive", path, "--name", "b5").strip()
    assert tree_of(imported) == git(folder, "rev-parse", "HEAD^{tree}")
    message = git(store.store_dir(), "log", "--format=%B", imported)
    assert (f"Upstream-Commit: {commit}" in message) == (kind != "folder")
    assert fetch_archive(path, "again") == imported
    assert revisions.resolve("git://127.0.0.1:1/none.git", "b5") == (imported, None)


@pytest.mark.usefixtures("cache")
def test_what_is_no_source_is_refused_in_words(checkout, tmp_path):
    folder, _ = checkout
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copytree(folder, tmp_path / "two" / name, symlinks=True)
    whole = tmp_path / "whole.tar.gz"
    git(folder, "archive", f"--output={whole}", "HEAD")
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:-40])
    zipped = tmp_path / "whole.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in LLAMA_CPP:
            archive.write(folder / name, name)
    (tmp_path / "cut.zip").write_bytes(zipped.read_bytes()[:-40])
    damaged = zipped.read_bytes().replace(b"project(llama.cpp)", b"project(llama.cqq)")
    (tmp_path / "damaged.zip").write_bytes(damaged)
    locked = bytearray(zipped.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted file, in the list at the end
    locked[6] |= 1  # and at the file itself
    (tmp_path / "locked.zip").write_bytes(locked)
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    (tmp_path / "nothing.tar.gz").touch()
    shutil.copytree(folder / "ggml", tmp_path / "without" / "ggml")
    shutil.make_archive(str(tmp_path / "without"), "gztar", tmp_path / "without")
    piped = tmp_path / "piped"
    shutil.copytree(folder, piped, symlinks=True)
    os.mkfifo(piped / "src" / "pipe")
    for path, words in (
        ("empty", "holds no llama.cpp tree"),
        ("without.tar.gz", "holds no llama.cpp tree"),
        ("two", r"holds llama.cpp 2 times \(a/, b/\)"),
        ("cut.tar.gz", "cannot be read"),
        ("cut.zip", "is no archive, or not a whole one"),
        ("damaged.zip", "cannot be read .*CRC"),
        ("locked.zip", "is encrypted"),
        ("page.tar.gz", "is no archive, or not a whole one"),
        ("nothing.tar.gz", "is no archive, or not a whole one"),
        ("piped", "holds src/pipe, which is neither a file nor a link"),
        ("gone.zip", "There is no file"),
    ):
        with pytest.raises(PatchError, match=words) as refusal:
            fetch_archive(tmp_path / path, "x")
        assert "\n" not in refusal.value.message
    with pytest.raises(PatchError, match="cannot be a name"):
        fetch_archive(whole, "../x")
    with pytest.raises(PatchError, match="is no commit"):
        fetch_archive(whole, "x", "abc")
    assert not store.upstream_commits(store.open_store())
    run("fetch", "--name", "x", code=2)


def member(name: str, data: bytes = b"planted\n", **fields) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = 0 if fields else len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(data)


TRAPS = {
    "up and out of llama.cpp": ([member("x/../../f")], "the name 'x/../../f', which leads out of it"),
    "up and out beside it": ([member("../f")], "the name '../f', which leads out of it"),
    "absolute": ([member("/etc/f")], "the name '/etc/f', which leads out of it"),
    "a link out": (
        [member("x/src/l", type=tarfile.SYMTYPE, linkname="../../f")],
        "the link 'src/l', which leads out of it",
    ),
    "an absolute link": (
        [member("x/l", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "the link 'l', which leads out of it",
    ),
    "below a link": (
        [member("x/l", type=tarfile.SYMTYPE, linkname="src"), member("x/l/f")],
        "holds l as a file and as a folder",
    ),
    "a file where a folder is": ([member("x/src")], "holds src as a file and as a folder"),
    "a hard link to nothing in it": (
        [member("x/h", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        "x/h is a link to nothing in it",
    ),
    "a device": ([member("x/null", type=tarfile.CHRTYPE)], "holds null, which is neither a file nor a link"),
    "a name twice": ([member("x/f")], "holds x/f twice"),
    "a name that is not UTF-8": ([member("x/caf\udce9")], "which is not UTF-8"),
}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("members, words", TRAPS.values(), ids=TRAPS)
def test_a_trap_in_an_archive_is_refused_and_nothing_imported(checkout, tmp_path, members, words):
    folder, _ = checkout
    trap = tmp_path / "trap.tar.gz"
    with tarfile.open(trap, "w:gz") as archive:
        for name in LLAMA_CPP:
            archive.add(folder / name, f"x/{name}")
        for info, data in members:
            data.seek(0)
            archive.addfile(info, data)
    said = run("fetch", "--archive", trap, "--name", "trap", code=1)
    assert words in said and said.startswith("Error: ") and said.count("\n") == 1
    assert not store.upstream_commits(store.open_store())


@pytest.mark.usefixtures("cache")
def test_a_hard_link_is_the_file_that_it_names(checkout, tmp_path):
    folder, _ = checkout
    linked = tmp_path / "linked.tar"
    with tarfile.open(linked, "w") as archive:
        for name in LLAMA_CPP:
            archive.add(folder / name, f"x/{name}")
        archive.addfile(*member("x/again", type=tarfile.LNKTYPE, linkname="x/f"))
    repo, commit = store.open_store(), fetch_archive(linked, "linked")
    _, blob = store.entry_at(repo, store.tree_of(repo, commit), "again")
    assert store.read_blob(repo, blob) == LLAMA_CPP["f"]


@pytest.mark.usefixtures("cache")
def test_a_series_stands_on_an_archive_and_says_where_from(checkout, tmp_path, monkeypatch):
    folder, _ = checkout
    world = make_world(tmp_path / "project", {"base": LLAMA_CPP}, {"one": {"f": b"line one\nline 2\n"}})
    (folder / "f").write_bytes(LLAMA_CPP["f"] + b"line 3\n")
    run("fetch", "--archive", folder, "--name", "b6")
    run("rebase", "b6")
    upstream = patchset.read_lock(world.patchset).upstream
    assert (upstream.archive, upstream.tag, upstream.bindings) == ("b6", None, None)
    assert world.result()["f"][1] == b"line one\nline 2\nline 3\n"
    run("lint")
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "another"))
    assert "'kvsplit-patch fetch --archive FILE --name b6'" in run("export", code=1)
    run("fetch", "--archive", folder, "--name", "b6")
    run("export")


@pytest.mark.usefixtures("cache")
def test_another_remote_this_once(checkout, tmp_path):
    folder, commit = checkout
    world = make_world(tmp_path / "project", {"base": LLAMA_CPP}, {"one": {"f": b"line one\nline 2\n"}})
    before = patchset.read_lock(world.patchset).upstream.url
    git(folder, "tag", "b7")
    with serving(tmp_path) as address:
        assert run("fetch", "b7", "--upstream", f"{address}/llama.cpp").splitlines()[-1] == commit
        run("rebase", "b7", "--upstream", f"{address}/llama.cpp")
    assert patchset.read_lock(world.patchset).upstream.url == before
    assert patchset.read_lock(world.patchset).upstream.commit == commit


@pytest.mark.usefixtures("cache")
def test_a_shallow_remote_is_called_that(remote, tmp_path):
    full, _ = remote
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{full}", "shallow")
    git(tmp_path / "shallow", "tag", "b9")
    with serving(tmp_path) as address, pytest.raises(PatchError, match="is a shallow clone"):
        revisions.fetch(f"{address}/shallow", "b9")
