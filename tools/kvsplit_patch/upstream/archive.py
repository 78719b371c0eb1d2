"""llama.cpp's files as a source archive or a folder has them, without git's objects: imported by their content.

Such are GitHub's archives of a tag, and sdists of packages that vendor the tree. What is imported stands on a commit
of its own without history, whose id comes from the files alone; where the store has an upstream commit with the very
same files, on that. Otherwise upstream's commit is not known, but for git's own archives, which name it.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import PatchError
from ..paths import sdists_dir
from . import index, store

#: Where a llama.cpp tree begins is known by these files.
_LANDMARKS = ("CMakeLists.txt", "include/llama.h", "ggml/include/ggml.h", "src/CMakeLists.txt")
_FILE, _PROGRAM, _LINK = 0o100644, 0o100755, 0o120000
#: Stands for the mode of what git does not keep, such as a pipe.
_NO_FILE = 0
_COMMIT = re.compile(r"[0-9a-f]{40}")

#: A file of the source: its path, git's mode, and its bytes; of a link, the path it leads to.
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
    if not path.exists():
        raise PatchError(f"There is no file {path}: give an archive or a folder with llama.cpp's sources.")
    try:
        if path.is_dir():
            return None, list(_of_folder(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _commit_or_none(archive.comment.decode("ascii", "replace")), list(_of_zip(archive))
        if not tarfile.is_tarfile(path):
            raise PatchError(
                f"{path} is no archive, or not a whole one: give a .tar.gz, .tar or .zip with llama.cpp's sources, or a folder."
            )
        with tarfile.open(path) as archive:
            entries = list(_of_tar(archive))
            return _commit_or_none(archive.pax_headers.get("comment", "")), entries
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as failure:
        raise PatchError(f"{path} cannot be read ({store.sentence(failure)}): give a whole archive.") from None
    except RuntimeError:  # zipfile's, for a password or a method that Python lacks
        raise PatchError(f"{path} is encrypted, or packed in a way that Python cannot read: pack it anew.") from None


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
            else:
                yield inside, _NO_FILE, b""


def _of_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    for member in archive:
        if member.issym():
            yield member.name, _LINK, os.fsencode(member.linkname)
        elif member.isreg() or member.islnk():
            try:
                content = archive.extractfile(member)  # of a hard link, the file that came before
            except KeyError:
                raise tarfile.TarError(f"{member.name} is a link to nothing in it") from None
            assert content  # it is a regular file
            yield member.name, _PROGRAM if member.mode & 0o100 else _FILE, content.read()
        elif not member.isdir():
            yield member.name, _NO_FILE, b""


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
    """The files from where llama.cpp begins in it. Raises PatchError without one, with two, or on a trap."""
    files: dict[str, tuple[int, bytes]] = {}
    for name, mode, data in entries:
        inside = _inside(path, name)
        if inside in files:
            raise PatchError(f"{path} holds {name} twice: do not use this source.")
        files[inside] = mode, data
    roots = sorted(name.removesuffix(_LANDMARKS[1]) for name in files if f"/{name}".endswith(f"/{_LANDMARKS[1]}"))
    roots = [root for root in roots if all(root + landmark in files for landmark in _LANDMARKS)]
    if not roots:
        raise PatchError(f"{path} holds no llama.cpp tree: give an archive or a folder with its sources.")
    if len(roots) > 1:
        raise PatchError(
            f"{path} holds llama.cpp {len(roots)} times ({', '.join(roots)}): unpack it, and give one folder."
        )
    (root,) = roots
    ours = {name.removeprefix(root): file for name, file in files.items() if name.startswith(root)}
    # A submodule's .git is a link to its repository, which is elsewhere.
    ours = {name: file for name, file in ours.items() if ".git" not in name.lower().split("/")}
    for name, (mode, data) in ours.items():
        _check(path, name, mode, data, ours)
    return [(name, mode, data) for name, (mode, data) in ours.items()]


def _inside(path: Path, name: str) -> str:
    """A member's name with slashes and nothing more. Raises PatchError for one that leads out of the archive."""
    parts = [part for part in name.split("/") if part != "."]
    if "" in parts or ".." in parts:
        raise PatchError(f"{path} holds the name {name!r}, which leads out of it: do not use this source.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PatchError(f"{path} holds the name {name!r}, which is not UTF-8: rename the file.") from None
    return "/".join(parts)


def _check(path: Path, name: str, mode: int, data: bytes, files: Mapping[str, tuple[int, bytes]]) -> None:
    """Raises PatchError where git cannot keep a file, or something would be written elsewhere than it says."""
    if mode == _NO_FILE:
        raise PatchError(f"{path} holds {name}, which is neither a file nor a link: leave it out.")
    if mode == _LINK:
        to = posixpath.normpath(posixpath.join(posixpath.dirname(name), os.fsdecode(data)))
        if to.startswith(("/", "../")) or to == "..":
            raise PatchError(f"{path} holds the link {name!r}, which leads out of it: do not use this source.")
    parents = posixpath.dirname(name)
    while parents:
        if parents in files:
            raise PatchError(f"{path} holds {parents} as a file and as a folder: do not use this source.")
        parents = posixpath.dirname(parents)
