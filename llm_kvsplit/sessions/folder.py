"""Where stored states lie, and which there are."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..paths import user_dir


def folder() -> Path:
    return user_dir() / "sessions"


def made_folder() -> Path:
    """The folder, made if it is not there: of the person alone, because tokens are their text. Raises OSError."""
    folder().parent.mkdir(parents=True, exist_ok=True)
    folder().mkdir(mode=0o700, exist_ok=True)
    return folder()


def free_bytes() -> int:
    """Bytes free where the states lie, or will lie."""
    there = next(path for path in (folder(), *folder().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def state_files() -> list[Path]:
    """Every stored state, least recently used first."""
    used = []
    for path in folder().glob("*/*.kv"):
        try:
            used.append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    return [path for _, path in sorted(used)]
