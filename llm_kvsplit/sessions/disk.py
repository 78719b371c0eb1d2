"""Where stored states lie, and which there are."""

from __future__ import annotations

from pathlib import Path

from ..paths import user_dir


def folder() -> Path:
    """Of the person alone, because tokens are their text."""
    path = user_dir() / "sessions"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def files() -> list[Path]:
    """Every stored state, least recently used first."""
    found = []
    for path in folder().glob("*/*.kv"):
        try:
            found.append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    return [path for _, path in sorted(found)]
