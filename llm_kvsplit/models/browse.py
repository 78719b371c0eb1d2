"""Other programs' folders and small files, read without stumbling over any of them.

Nothing here writes. A folder that is not there is no fault: the program is not installed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..gguf import part_names
from .place import Fault, Place

#: How programs name what they have not fetched to the end. Sources: llama.cpp (.downloadInProgress),
#: huggingface_hub (.incomplete), Ollama (-partial), GPT4All (.part and, for its app, incomplete-…), browsers.
UNFINISHED = re.compile(r"(\.(downloadInProgress|incomplete|part|crdownload|tmp)|-partial)$|^incomplete-", re.I)

#: The largest list or manifest of a program that is read; theirs have kilobytes.
_MAX_TEXT = 1 << 22


def gguf_files(folder: Path) -> Iterator[Path | Fault]:
    """Every GGUF file below ``folder``, of a split model the first part; links are followed, each folder once."""
    visited = set()
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (OSError, ValueError) as error:
            yield from _unreadable_folder(current, error)
            continue
        names = {entry.name for entry in entries}
        inner = []
        for entry in entries:
            try:
                if entry.is_dir():
                    inner.append(Path(entry.path))
                    continue
                regular = entry.is_file()
            except OSError:  # a link to itself
                regular = False
            yield from _model_or_fault(Path(entry.path), regular, names)
        folders.extend(reversed(inner))


def _model_or_fault(path: Path, regular: bool, names: set[str]) -> Iterator[Path | Fault]:
    """``path`` if it is a model, a fault if it nearly is one. ``names``: what the same folder holds."""
    if UNFINISHED.search(path.name):
        if ".gguf" in path.name.lower():
            yield Fault(path, "is an unfinished download")
    elif path.suffix.lower() == ".gguf":
        first = part_names(path.name)[0]
        if not regular:
            yield Fault(path, "is a link to nothing" if path.is_symlink() else "is not a file")
        elif first == path.name:
            yield path
        elif first not in names:
            yield Fault(path, f"is a part of a split model whose first part, {first}, is missing")


def places_below(program: str, folder: Path) -> Iterator[Place | Fault]:
    """The GGUF files below ``folder``, each named by its path there."""
    for each in gguf_files(folder):
        if isinstance(each, Fault):
            yield each
        else:
            yield Place(program, each.relative_to(folder).as_posix(), each)


def home() -> Path:
    """The person's folder; one that does not exist where the system does not know it."""
    return Path(os.path.expanduser("~"))


def begins_like_gguf(path: Path) -> bool:
    """Whether a file is a GGUF file or the beginning of one, whatever its name; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except (OSError, ValueError):
        return False


def children(folder: Path, levels: int = 1) -> Iterator[Path | Fault]:
    """What lies ``levels`` below ``folder``, by name."""
    try:
        entries = sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        yield from _unreadable_folder(folder, error)
        return
    for entry in entries:
        if levels == 1:
            yield entry
        else:
            yield from children(entry, levels - 1)


def _unreadable_folder(folder: Path, error: Exception) -> Iterator[Fault]:
    """Nothing for a folder that is not there, or is none."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        yield Fault(folder, f"cannot be read ({_reason(error)})")


def read_text(path: Path) -> str | Fault | None:
    """A small text file; None where there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TEXT + 1)
        return text.decode("utf-8-sig") if len(text) <= _MAX_TEXT else Fault(path, "is far too long")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return unreadable(path, error)


def read_json(path: Path) -> dict | Fault | None:
    """The object in a JSON file; None where there is no file."""
    text = read_text(path)
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return unreadable(path, error)
    return value if isinstance(value, dict) else Fault(path, "cannot be read (it holds no JSON object)")


def unreadable(path: Path, error: Exception) -> Fault:
    return Fault(path, f"cannot be read ({_reason(error)})")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0] or type(error).__name__
