"""Sdists made by hand as the real ones are, honest and hostile."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile

import pytest

from kvsplit_patch import store, upstream
from kvsplit_patch.errors import PatchError
from kvsplit_patch.sdist import download_sdist
from tests.support.worlds import git, run

pytestmark = pytest.mark.usefixtures("cache")

#: Code that a build, and pip already when it only downloads, would run.
PACKAGE = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": 'raise SystemExit("the package was run")\n',
}
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
        for name, text in PACKAGE.items():
            add(f"llama_cpp_python-9.9.9/{name}", text.encode())
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
    for name in (
        "../../evil",
        "/tmp/evil-by-kvsplit-test",
        f"{MODULE}/../../../../../evil",
        f"{MODULE}/objects/../../evil",
    ):
        member = tarfile.TarInfo(name)
        member.size = 3
        evil.append(member)
    link = tarfile.TarInfo(f"{MODULE}/objects/pack/pack-{'a' * 40}.pack")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    make_sdist(sdist, folder, extra=[*evil, link])
    assert upstream.fetch_sdist(str(sdist)) == commits[3]
    assert not list(tmp_path.rglob("*evil*"))
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
    assert not list(store.store_dir().glob("quarantine-*"))


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


def test_a_version_comes_from_an_index_and_is_kept_by_its_content(remote, sdist, tmp_path, monkeypatch, cache):
    folder, commits = remote
    index = tmp_path / "index"
    index.mkdir()
    make_sdist(index / sdist.name, folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert run("fetch", "--sdist", "9.9.9").splitlines()[-1] == commits[3]
    kept = download_sdist("9.9.9")
    assert kept.read_bytes() == (index / sdist.name).read_bytes()
    assert kept.parent.name == hashlib.sha256(kept.read_bytes()).hexdigest()
    (index / sdist.name).unlink()
    assert download_sdist("9.9.9") == kept  # not asked for again
    kept.write_bytes(b"spoilt")
    with pytest.raises(PatchError, match="There is no sdist of llama-cpp-python 9.9.9"):
        download_sdist("9.9.9")
