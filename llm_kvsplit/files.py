"""Files as everything here writes and names them: whole or not at all, and by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

_BLOCK = 4 << 20


def write_whole(file: Path, text: str) -> None:
    """Write beside, sync, rename: who reads it, or kills this process, finds the old file or the new one.

    Its folder is made if it is not there. Raises OSError, with the old file as it was.
    """
    write_whole_bytes(file, text.encode())


def write_whole_bytes(file: Path, data: bytes) -> None:
    """The same, for what is no text."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_cached(file: Path, text: str) -> None:
    """``write_whole`` for what can be made again: a folder that cannot be written costs time, and nothing else."""
    with suppress(OSError):
        write_whole(file, text)


def size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: IO[bytes]) -> str:
    """Of what is left to read."""
    total = hashlib.sha256()
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()
