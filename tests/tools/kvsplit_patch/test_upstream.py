"""Fetching from a real git daemon on loopback, and out of sdists made by hand, honest and hostile ones."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import pygit2
import pytest

from kvsplit_patch import patchfile, series, store, upstream
from kvsplit_patch.errors import PatchError

from .worlds import make_tree, make_world, numbered, run, tree_files

pytestmark = pytest.mark.usefixtures("cache")


def git(folder, *arguments) -> str:
    who = ["-c", "user.name=up", "-c", "user.email=up@example.org", "-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, content: bytes, message: str) -> str:
    (folder / "f").write_bytes(content)
    git(folder, "add", "f")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def remote(tmp_path):
    """An upstream of four commits: lightweight tag b1, annotated b2, none on the third, b4 on the last."""
    folder = tmp_path / "served" / "llama.cpp"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=master")
    commits = [commit(folder, numbered(l25=f"upstream {number}"), f"commit {number}") for number in range(4)]
    git(folder, "tag", "b1", commits[0])
    git(folder, "tag", "--annotate", "-m", "release", "b2", commits[1])
    git(folder, "tag", "b4", commits[3])
    return folder, commits


@pytest.fixture
def url(remote):
    """The address a git daemon serves that upstream at."""
    if subprocess.run(["git", "daemon", "--version"], capture_output=True, check=False).returncode not in (0, 129):
        pytest.skip("git has no daemon here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr", "--export-all"]
    # A session of its own: the daemon proper is a child of `git`, and both must end.
    daemon = subprocess.Popen([*serve, f"--base-path={remote[0].parent}"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert daemon.poll() is None, "git daemon ended"
                time.sleep(0.05)
        yield f"git://127.0.0.1:{port}/llama.cpp"
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()


def test_light_and_annotated_tags_come_as_commits_without_history(remote, url):
    _, commits = remote
    assert upstream.fetch(url, "b1") == commits[0]
    assert upstream.fetch(url, "b2") == commits[1]
    repo = store.open_store()
    assert upstream.fetch(url, "b4") == commits[3]
    assert commits[2] not in repo
    assert tree_files(str(repo[commits[1]].peel(pygit2.Tree).id))["f"][1] == numbered(l25="upstream 1")
    assert git(store.store_dir(), "log", "--format=%s", commits[3]) == "commit 3"
    git(store.store_dir(), "fsck", "--strict")


@pytest.mark.parametrize("tag", ["b1", "b2"])
def test_a_moved_tag_is_refused_and_the_known_commit_kept(remote, url, tag):
    folder, commits = remote
    first = upstream.fetch(url, tag)
    assert upstream.fetch(url, tag) == first
    git(folder, "tag", "--force", "--annotate", "-m", "moved", tag, commits[2])
    with pytest.raises(PatchError, match=f"{tag} at {url} has moved from {first} to {commits[2]}"):
        upstream.fetch(url, tag)
    assert store.find_commit(store.open_store(), tag) == first


def test_a_tag_made_again_on_the_same_commit_has_not_moved(remote, url):
    folder, commits = remote
    upstream.fetch(url, "b2")
    git(folder, "tag", "--force", "--annotate", "-m", "again", "b2", commits[1])
    assert upstream.fetch(url, "b2") == commits[1]


def test_a_commit_by_its_id(remote, url):
    folder, commits = remote
    assert upstream.fetch(url, commits[3]) == commits[3]  # the tip of a ref: any server hands that out
    with pytest.raises(PatchError, match=f"Fetching {commits[2]} from"):
        upstream.fetch(url, commits[2])
    git(folder, "config", "uploadpack.allowReachableSHA1InWant", "true")  # as GitHub does
    assert upstream.fetch(url, commits[2]) == commits[2]
    assert store.find_commit(store.open_store(), commits[2][:9]) == commits[2]


def test_what_cannot_be_fetched_says_so_in_a_sentence(remote, url):
    folder, _ = remote
    git(folder, "tag", "blob", git(folder, "rev-parse", "HEAD:f"))
    for what, words in (("b9", "has no tag b9"), ("blob", "names no commit"), ("--upload-pack=x", "neither a tag nor")):
        with pytest.raises(PatchError, match=words):
            upstream.fetch(url, what)
    with pytest.raises(PatchError, match="Fetching b1 from git://127.0.0.1:1/x failed"):
        upstream.fetch("git://127.0.0.1:1/x", "b1")
    assert not [ref for ref in store.open_store().references if "incoming" in ref]


def test_rebase_on_a_bare_cache_fetches_base_and_target(remote, url, tmp_path, cache):
    """What a maintainer does on a clean clone: no fetch, no set-up, just the tag."""
    _, commits = remote
    patches = {"one": {"f": numbered(l8="one", l25="upstream 0")}}
    world = make_world(tmp_path / "project", {"base": {"f": numbered(l25="upstream 0")}}, patches, url=url)
    lock = series.read_lock(world.patchset)
    real = series.Upstream(url, commits[0], "b1")
    (world.patchset / "lock.json").write_bytes(series.write_lock(series.Lock("1", real, lock.base_tree, lock.result_tree, lock.patches)))
    shutil.rmtree(cache)
    assert "one: clean" in run("rebase", "b4")
    lock = series.read_lock(world.patchset)
    assert (lock.upstream.tag, lock.upstream.commit) == ("b4", commits[3])
    assert world.result()["f"][1] == numbered(l8="one", l25="upstream 3")


def test_the_locked_tag_may_not_move_even_for_an_empty_cache(remote, url, tmp_path, cache):
    folder, commits = remote
    world = make_world(tmp_path / "project", {"base": {"f": numbered(l25="upstream 0")}}, {}, url=url)
    lock = series.read_lock(world.patchset)
    real = series.Upstream(url, commits[0], "b1")
    (world.patchset / "lock.json").write_bytes(series.write_lock(series.Lock("1", real, lock.base_tree, lock.result_tree, ())))
    shutil.rmtree(cache)
    git(folder, "tag", "--force", "b1", commits[2])
    for command in (["fetch", "b1"], ["rebase", "b4"]):
        assert "has moved" in run(*command, code=1)


# --- sdists -------------------------------------------------------------------------------------

MODULE = "llama_cpp_python-9.9.9/.git/modules/vendor/llama.cpp"


def make_sdist(path, folder, head=None, leave_out=(), spoil=(), extra=()):
    """An sdist as the real ones are: the submodule's git directory inside, objects loose and packed."""
    git(folder, "checkout", "--quiet", "--detach")
    with tarfile.open(path, "w:gz") as archive:

        def add(name, data):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
        add(f"{MODULE}/config", b"[core]\n\tfsmonitor = touch /nowhere/evil\n")
        add(f"{MODULE}/HEAD", (head or git(folder, "rev-parse", "HEAD")).encode() + b"\n")
        for file in sorted((folder / ".git" / "objects").rglob("*")):
            name = file.relative_to(folder / ".git").as_posix()
            if file.is_file() and not any(word in name for word in leave_out):
                data = file.read_bytes()
                if any(word in name for word in spoil):
                    data = data[:40] + b"spoilt" + data[46:]
                add(f"{MODULE}/{name}", data)
    return path


@pytest.fixture
def sdist(tmp_path):
    return tmp_path / "llama_cpp_python-9.9.9.tar.gz"


@pytest.mark.parametrize("packed", [True, False])
def test_an_sdist_gives_the_commit_it_vendors(remote, sdist, packed):
    folder, commits = remote
    if packed:
        git(folder, "repack", "-adq")
    make_sdist(sdist, folder)
    assert run("fetch", "--sdist", sdist) == commits[3] + "\n"
    repo = store.open_store()
    assert store.find_commit(repo, "9.9.9") == commits[3]
    assert upstream.bindings_of(repo, commits[3]) == "9.9.9"
    assert upstream.resolve("git://127.0.0.1:1/x", "9.9.9") == (commits[3], None)
    assert "fsmonitor" not in (store.store_dir() / "config").read_text()
    git(store.store_dir(), "fsck")
    assert run("fetch", "--sdist", "9.9.9") == commits[3] + "\n"  # known by now: no download


def test_names_in_an_sdist_lead_nowhere(remote, sdist, tmp_path, cache):
    folder, commits = remote
    evil = []
    for name in ("../../evil", "/tmp/evil-by-kvsplit-test", f"{MODULE}/../../../../../evil", f"{MODULE}/objects/../../evil"):
        member = tarfile.TarInfo(name)
        member.size = 3
        evil.append(member)
    link = tarfile.TarInfo(f"{MODULE}/objects/pack/pack-{'a' * 40}.pack")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    make_sdist(sdist, folder, extra=[*evil, link])
    assert upstream.fetch_sdist(str(sdist)) == commits[3]
    assert not [path for path in tmp_path.rglob("*evil*")]
    assert not list(cache.rglob(f"pack-{'a' * 40}*"))


def test_incomplete_and_spoilt_objects_never_reach_the_store(remote, sdist):
    folder, commits = remote
    blob = git(folder, "rev-parse", "HEAD:f")
    make_sdist(sdist, folder, leave_out=[f"{blob[:2]}/{blob[2:]}"])
    with pytest.raises(PatchError, match=f"objects of {commits[3]} in {sdist.name} are incomplete"):
        upstream.fetch_sdist(str(sdist))
    git(folder, "repack", "-adq")
    make_sdist(sdist, folder, spoil=[".pack"])
    with pytest.raises(PatchError, match="incomplete|does not carry that commit"):
        upstream.fetch_sdist(str(sdist))
    assert commits[3] not in store.open_store()
    assert not [path for path in store.store_dir().glob("quarantine-*")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "ref: refs/heads/master"}, "does not carry llama.cpp's git objects"),
        ({"head": "1" * 40}, "does not carry that commit"),
    ],
)
def test_a_head_that_leads_nowhere(remote, sdist, options, words):
    make_sdist(sdist, remote[0], **options)
    with pytest.raises(PatchError, match=words):
        upstream.fetch_sdist(str(sdist))


def test_a_cut_sdist_and_wrong_names(remote, sdist, tmp_path):
    make_sdist(sdist, remote[0])
    sdist.write_bytes(sdist.read_bytes()[: sdist.stat().st_size // 2])
    with pytest.raises(PatchError, match="cannot be read"):
        upstream.fetch_sdist(str(sdist))
    sdist.write_bytes(b"not a tar at all")
    with pytest.raises(PatchError, match="cannot be read"):
        upstream.fetch_sdist(str(sdist))
    with pytest.raises(PatchError, match="There is no file"):
        upstream.fetch_sdist(str(tmp_path / "llama_cpp_python-1.tar.gz"))
    with pytest.raises(PatchError, match="neither a llama-cpp-python version"):
        upstream.fetch_sdist("latest; rm -rf /")


def test_two_imports_at_once(remote, sdist):
    folder, commits = remote
    git(folder, "repack", "-adq")
    make_sdist(sdist, folder)
    command = [sys.executable, "-m", "kvsplit_patch.main", "fetch", "--sdist", str(sdist)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in "12"]
    assert [process.communicate()[0] for process in both] == [commits[3] + "\n"] * 2


# --- source folders -----------------------------------------------------------------------------


def test_a_source_folder_is_the_tree_byte_for_byte(tmp_path):
    files = {
        "a/b.c": b"x\r\ny\n",
        ".gitattributes": b"* text eol=lf\n",
        "run": (patchfile.EXECUTABLE, b"#!\n"),
        "link": (patchfile.LINK, b"a/b.c"),
    }
    folder = upstream.materialize(make_tree(files))
    assert (folder / "a/b.c").read_bytes() == b"x\r\ny\n"
    assert (folder / "link").is_symlink() and (folder / "run").stat().st_mode & 0o777 == 0o555
    assert (folder / "a/b.c").stat().st_mode & 0o777 == 0o444
    assert upstream.materialize(make_tree(files)) == folder
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_a_tree_that_reaches_out_is_refused(tmp_path):
    """Written object by object, since libgit2 would not make such a tree itself."""
    repo = store.open_store()
    blob = repo.create_blob(b"x").raw
    bad = repo.odb.write(pygit2.enums.ObjectType.TREE, b"100644 ..\0" + blob)
    with pytest.raises(PatchError, match="do not use this source"):
        upstream.materialize(str(bad))
    inner = repo.odb.write(pygit2.enums.ObjectType.TREE, b"100644 f\0" + blob)
    link = repo.create_blob(str(tmp_path).encode()).raw
    twice = repo.odb.write(pygit2.enums.ObjectType.TREE, b"120000 a\0" + link + b"40000 a\0" + inner.raw)
    with pytest.raises(PatchError, match="do not use this source"):
        upstream.materialize(str(twice))
    assert not (tmp_path / "f").exists()
