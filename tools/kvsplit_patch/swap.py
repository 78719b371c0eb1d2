"""Exchanging two folders in one step, so that a reader finds the old one or the new one and never neither."""

import ctypes
import os
import sys
from pathlib import Path


def swap(one: Path, other: Path):
    """Exchange two folders of one file system. ``one`` may be missing: then ``other`` takes its place."""
    if not one.exists():
        os.rename(other, one)
    elif not _exchange(one, other):
        # No such call here (network file systems, Windows): two renames, and the journal to finish them by.
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


def sync(folder: Path):
    """Force a folder's entries to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_file(path: Path, data: bytes):
    """Write a file and force it to disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
