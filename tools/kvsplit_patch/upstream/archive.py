"""llama.cpp's files as a source archive or a folder has them, without git's objects: imported by their content.

Such are GitHub's archives of a tag, and sdists of packages that vendor the tree. What is imported stands on a commit
of its own without history, whose id comes from the files alone; where the store has an upstream commit with the very
same files, on that. Otherwise upstream's commit is not known, but for git's own archives, which name it.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import PatchError
from ..paths import sdists_dir
from . import index, store

#: Where a llama.cpp tree begins is known by these files.
_LANDMARKS = ("CMakeLists.txt", "include/llama.h", "ggml/include/ggml.h", "src/CMakeLists.txt")
_FILE, _PROGRAM, _LINK = 0o100644, 0o100755, 0o120000
_COMMIT = re.compile(r"[0-9a-f]{40}")

#: A file of the source: its path, git's mode, and its bytes.
Entry = tuple[str, int, bytes]


def fetch_archive(path: Path, name: str | None = None, upstream_commit: str | None = None) -> str:
    """Bring the llama.cpp tree in an archive (.tar.gz, .tar, .zip) or a folder into the store.

    Returns the 40-hex id of the commit it stands on there. ``name``: what it is called from now on, its file's name if
    it is not given. ``upstream_commit``: 40 hex digits, noted with it. Raises PatchError.
    """
    import pygit2

    name = name or re.sub(r"(\.tar)?\.(gz|zip|tar|tgz|xz|bz2)$", "", path.name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise PatchError(f"{name!r} cannot be a name for a source: give one of letters and digits with --name.")
    if upstream_commit and not _COMMIT.fullmatch(upstream_commit):
        raise PatchError(f"{upstream_commit!r} is no commit: give its 40 hexadecimal digits, or leave it out.")
    repo = store.open_store()
    with store.writing():
        named, entries = _read(path)
        files = _llama_cpp(path, entries)
        blobs = {inside: (mode, str(repo.create_blob(data))) for inside, mode, data in files}
        tree = store.tree_with(repo, None, blobs)
        commit = next(
            (each for each in store.upstream_commits(repo).values() if store.tree_of(repo, each) == tree), None
        )
        known = upstream_commit or named
        note = f"\nUpstream-Commit: {known}\n" if known else ""
        nobody = pygit2.Signature("llm-kvsplit", "maintainers@llm-kvsplit.invalid", 0, 0)
        message = f"llama.cpp's files, imported without their history\n{note}"
        commit = commit or str(repo.create_commit(None, nobody, nobody, message, pygit2.Oid(hex=tree), []))
        repo.references.create(f"{store.REFS}/archive/{name}", commit, force=True)
    return commit


def is_package(text: str) -> bool:
    """Whether a text is ``PACKAGE==VERSION``."""
    return bool(re.fullmatch(r"[\w.-]+==[\w.+!-]+", text))


def fetch_package(package: str, name: str | None = None, upstream_commit: str | None = None) -> str:
    """``fetch_archive`` of the sdist of ``PACKAGE==VERSION``, for a package that vendors llama.cpp's files."""
    package, _, version = package.partition("==")
    with index.incoming(sdists_dir()) as folder:
        return fetch_archive(index.download(package, version, "sdist", folder), name, upstream_commit)


def _read(path: Path) -> tuple[str | None, list[Entry]]:
    """The commit that the archive names, if it does, and its files. Raises PatchError."""
    try:
        if path.is_dir():
            return None, list(_of_folder(path))
        if not path.exists():
            raise PatchError(f"There is no file {path}: give an archive or a folder with llama.cpp's sources.")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _commit_or_none(archive.comment.decode("ascii", "replace")), list(_of_zip(archive))
        with tarfile.open(path) as archive:
            entries = list(_of_tar(archive))
            return _commit_or_none(archive.pax_headers.get("comment", "")), entries
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as failure:
        raise PatchError(f"{path} cannot be read ({store.sentence(failure)}): give a whole archive.") from None


def _commit_or_none(comment: str) -> str | None:
    return comment if _COMMIT.fullmatch(comment) else None


def _of_folder(folder: Path) -> Iterator[Entry]:
    for here, names, file_names in os.walk(folder):
        names[:] = [name for name in names if name != ".git"]
        for name in [*file_names, *(name for name in names if os.path.islink(os.path.join(here, name)))]:
            path = Path(here, name)
            status = path.lstat()
            inside = path.relative_to(folder).as_posix()
            if stat.S_ISLNK(status.st_mode):
                yield inside, _LINK, os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                yield inside, _PROGRAM if status.st_mode & 0o100 else _FILE, path.read_bytes()


def _of_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    for member in archive:
        if member.issym():
            yield member.name, _LINK, os.fsencode(member.linkname)
        elif member.isreg():
            content = archive.extractfile(member)
            assert content  # it is a regular file
            yield member.name, _PROGRAM if member.mode & 0o100 else _FILE, content.read()


def _of_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    for member in archive.infolist():
        mode = member.external_attr >> 16
        if member.is_dir():
            continue
        if stat.S_ISLNK(mode):
            yield member.filename, _LINK, archive.read(member)
        else:
            yield member.filename, _PROGRAM if mode & 0o100 else _FILE, archive.read(member)


def _llama_cpp(path: Path, entries: list[Entry]) -> list[Entry]:
    """The files from where llama.cpp begins in it. Raises PatchError without one, or with two."""
    names = {PurePosixPath(name).as_posix().removeprefix("./") for name, _, _ in entries}
    roots = sorted(name.removesuffix(_LANDMARKS[1]) for name in names if f"/{name}".endswith(f"/{_LANDMARKS[1]}"))
    roots = [root for root in roots if all(root + landmark in names for landmark in _LANDMARKS)]
    if not roots:
        raise PatchError(f"{path} holds no llama.cpp tree: give an archive or a folder with its sources.")
    if len(roots) > 1:
        raise PatchError(
            f"{path} holds llama.cpp {len(roots)} times ({', '.join(roots)}): unpack it, and give one folder."
        )
    (root,) = roots
    files = []
    for name, mode, data in entries:
        inside = PurePosixPath(name).as_posix().removeprefix("./")
        if not inside.startswith(root):
            continue
        inside = inside.removeprefix(root)
        parts = inside.split("/")
        if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts):
            if ".git" in (part.lower() for part in parts):
                continue  # a submodule's link to its repository, which is elsewhere
            raise PatchError(f"{path} holds the name {name!r}, which leads out of it: do not use this source.")
        files.append((inside, mode, data))
    return files
