"""The llama.cpp commit that an sdist of llama-cpp-python carries as git objects: downloaded, checked, imported."""

import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from llm_kvsplit import files

from ..errors import NetworkError, PatchError
from ..paths import sdists_dir
from . import index, store

PACKAGE = "llama-cpp-python"
_MODULE = re.compile(
    r"[^/]+/\.git/modules/vendor/llama\.cpp/"
    r"(HEAD|objects/pack/pack-[0-9a-f]{40}\.(?:pack|idx)|objects/[0-9a-f]{2}/[0-9a-f]{38})"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_sdist(version_or_file: str) -> str:
    """Bring the commit that a llama-cpp-python sdist vendors into the store; its 40-hex id.

    Takes a version (downloaded, kept by content) or the path of a ``.tar.gz``. Raises PatchError.
    """
    repo = store.open_store()
    path = Path(version_or_file)
    if version_or_file.endswith(".gz") or path.is_file():
        if not path.is_file():
            raise PatchError(f"There is no file {path}: give an sdist, or a version to download.")
        version = _version_of(path)
    else:
        version = version_or_file
        if not re.fullmatch(r"\d+(\.\w+)+", version):
            raise PatchError(
                f"{version!r} is neither a llama-cpp-python version nor an sdist: give one such as 0.3.36."
            )
        if known := store.commit_at(repo, f"{store.REFS}/sdist/{version}"):
            return known
        path = download_sdist(version)
    with store.writing():
        return _import_sdist(repo, path, version)


def _version_of(path: Path) -> str:
    named = re.search(r"llama_cpp_python-([\w.]+)\.tar\.gz$", path.name)
    if not named:
        raise PatchError(f"{path.name} is not named like an sdist of llama-cpp-python: give one as an index has it.")
    return named[1]


def download_sdist(version: str) -> Path:
    """The sdist of a llama-cpp-python version, kept by its SHA-256. Raises PatchError."""
    name = f"llama_cpp_python-{version}"
    pointer = sdists_dir() / f"{name}.sha256"
    with index.incoming(sdists_dir()) as folder:
        if pointer.is_file():
            path = sdists_dir() / pointer.read_text().strip() / f"{name}.tar.gz"
            if path.is_file() and files.sha256(path) == path.parent.name:
                return path
        try:
            came = index.download(PACKAGE, version, "sdist", folder)
        except NetworkError as failure:
            elsewhere = "or download it elsewhere and give the file to 'kvsplit-patch fetch --sdist'."
            raise NetworkError(f"{failure.message.rstrip('.')}; {elsewhere}") from failure
        path = sdists_dir() / files.sha256(came) / f"{name}.tar.gz"
        path.parent.mkdir(exist_ok=True)
        os.replace(came, path)
        files.write_whole(pointer, path.parent.name + "\n")
    return path


def newest_version() -> str:
    """The newest llama-cpp-python on the index that pip is configured for. Raises PatchError."""
    return index.newest(PACKAGE)


def _import_sdist(repo, path: Path, version: str) -> str:
    """Read the submodule's HEAD and objects, nothing else, and check them before the store sees them.

    The sdist's git configuration and hooks are never looked at; member names only choose which of our own
    names a file gets, so no name can lead out of the quarantine folder.
    """
    import pygit2

    store_objects = Path(repo.path) / "objects"
    for left_by_a_kill in Path(repo.path).glob("quarantine-*"):
        shutil.rmtree(left_by_a_kill)
    with tempfile.TemporaryDirectory(dir=repo.path, prefix="quarantine-") as folder:
        quarantine = pygit2.init_repository(folder, bare=True)
        head = None
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    wanted = _MODULE.fullmatch(member.name)
                    if not wanted or not member.isreg():
                        continue
                    content = archive.extractfile(member)
                    assert content  # it is a regular file
                    if wanted[1] == "HEAD":
                        head = content.read(100).decode("ascii", "replace").strip()
                        continue
                    target = Path(folder) / wanted[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as file:
                        shutil.copyfileobj(content, file)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as failure:
            raise PatchError(f"{path} cannot be read ({store.sentence(failure)}): download it again.") from None
        if not head or not _COMMIT.fullmatch(head):
            raise PatchError(
                f"{path.name} does not carry llama.cpp's git objects: fetch the commit it vendors by its id instead."
            )
        try:
            quarantine = pygit2.Repository(folder)
            quarantine[head].peel(pygit2.Commit)
        except (KeyError, pygit2.GitError, ValueError):
            raise PatchError(f"{path.name} names {head}, but does not carry that commit: download it again.") from None
        store.require_complete(quarantine, head, path.name)
        # The .idx last: a pack counts only from then on.
        unpacked = [file for file in (Path(folder) / "objects").rglob("*") if file.is_file()]
        for came in sorted(unpacked, key=lambda file: file.suffix == ".idx"):
            target = store_objects / came.relative_to(Path(folder) / "objects")
            target.parent.mkdir(exist_ok=True)
            os.replace(came, target)
    _mark_shallow(repo, head)
    repo = store.open_store()
    repo.references.create(f"{store.REFS}/sdist/{version}", head, force=True)
    return head


def _mark_shallow(repo, commit: str) -> None:
    """Tell git that the commit's parents are left out on purpose, for people who run git in the store."""
    path = Path(repo.path) / "shallow"
    known = path.read_text().split() if path.exists() else []
    if commit not in known:
        path.write_text("\n".join([*known, commit, ""]))
