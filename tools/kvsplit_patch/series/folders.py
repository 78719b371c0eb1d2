"""Reading, writing and exchanging whole folders, files as (mode, bytes) by their path, as git has them."""

import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

Files = dict[str, tuple[int, bytes]]


def paths(folder: Path) -> Iterator[str]:
    """Every file and link below a folder, relative and with slashes, but for what lies in its own ``.git``."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git" or parent != str(folder))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*names, *links]):
            yield os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")


def content(path: Path) -> tuple[int, bytes]:
    """git's mode of a file or link, and its bytes."""
    if path.is_symlink():
        return 0o120000, os.fsencode(os.readlink(path))
    executable = path.stat().st_mode & stat.S_IXUSR
    return (0o100755 if executable else 0o100644), path.read_bytes()


def read(folder: Path) -> Files:
    return {path: content(folder / path) for path in paths(folder)}


def write(folder: Path, files: Files) -> None:
    """Write files into a new folder and force them to disk."""
    folder.mkdir(parents=True)
    for path, (mode, data) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if mode == 0o120000:
            os.symlink(os.fsdecode(data), folder / path)
        else:
            write_file(folder / path, data, mode & 0o777)
    for parent, _, _ in os.walk(folder):
        sync(Path(parent))


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file and force it to disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Force a folder's entries to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap(one: Path, other: Path) -> None:
    """Exchange two folders of one file system, so that a reader finds the old one or the new one and never neither.

    ``one`` may be missing: then ``other`` takes its place.
    """
    if not one.exists():
        os.rename(other, one)
    elif not _exchange(one, other):
        # No such call here (network file systems): two renames, and the journal to finish them by.
        aside = one.with_name(f".{one.name}-old")
        os.rename(one, aside)
        os.rename(other, one)
        os.rename(aside, other)
    sync(one.parent)


def _exchange(one: Path, other: Path) -> bool:
    paths = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return libc.renamex_np(*paths, ctypes.c_uint(2)) == 0  # RENAME_SWAP
        here = ctypes.c_int(-100)  # AT_FDCWD
        return libc.renameat2(here, paths[0], here, paths[1], ctypes.c_uint(2)) == 0  # RENAME_EXCHANGE
    except (AttributeError, OSError, TypeError):
        return False
