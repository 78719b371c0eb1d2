"""The folder of stored states: one file a conversation, in a folder for everything that must match (``Key``).

A state is found by the tokens it begins with, so two questions about one book share the book's state too. Files are
written beside their place, synced and renamed. Whatever is damaged is removed, noted for ``doctor``, and computed
anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import budget, state_file
from .folder import folder, made_folder, state_files

if TYPE_CHECKING:
    import numpy as np

#: Fewer tokens are evaluated in the time that looking for them takes.
MIN_TOKENS = 32

_T = TypeVar("_T")


def find(key: state_file.Key, tokens: list[int], longest: int) -> tuple[state_file.Session, int] | None:
    """The session that shares the longest prefix with ``tokens``, and that prefix's length.

    ``longest``: tokens that the context may hold. A longer state cannot be restored into it.
    """
    import numpy as np

    prompt = np.array(tokens, np.uint32)
    best: tuple[state_file.Session, int] | None = None
    for path in (folder() / key.folder_name()).glob("*.kv"):
        session = _sound(path, lambda path: state_file.read_head(path, key))
        if session is None or len(session.tokens) > longest:
            continue
        n = min(len(prompt), len(session.tokens))
        different = np.flatnonzero(prompt[:n] != session.tokens[:n])
        common = int(different[0]) if len(different) else n
        if common >= MIN_TOKENS and (best is None or common > best[1]):
            best = session, common
    return best


def load(session: state_file.Session) -> np.ndarray | None:
    """The state's bytes, checked; None, and the file removed, when it is damaged."""
    state = _sound(session.path, lambda _: state_file.read_state(session))
    if state is not None:
        with contextlib.suppress(OSError):
            os.utime(session.path)  # least recently used goes first
    return state


def _sound(path: Path, read: Callable[[Path], _T]) -> _T | None:
    """What ``read`` returns; None for a file that is gone, or damaged. A damaged one is removed and noted."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (state_file.Damaged, ValueError, KeyError, TypeError) as ex:
        record_trouble(f"A stored state was removed: {ex}.")
        path.unlink(missing_ok=True)
    except OSError as ex:
        record_trouble(f"A stored state could not be read: {ex.strerror}.")
    return None


@dataclass(frozen=True)
class Saved:
    bytes: int
    seconds: float


def save(
    key: state_file.Key,
    model_name: str,
    conversation: str,
    tokens: list[int],
    state: memoryview,
    media: Sequence[tuple[int, int, int]] = (),
) -> Saved | None:
    """Keep the state of ``tokens`` for this conversation, in place of an older one.

    None when it cannot be kept (no room, no permission), with a note for ``doctor``: an answer was given, and
    must not fail for the sake of the next one.
    """
    started = time.perf_counter()
    key_folder = folder() / key.folder_name()
    path = key_folder / f"{hashlib.sha256(conversation.encode()).hexdigest()[:32]}.kv"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        made_folder()
        key_folder.mkdir(mode=0o700, exist_ok=True)
        head = state_file.head_bytes(key, model_name, conversation, tokens, state, media)
        if not budget.make_room(len(head) + len(state), keep=path):
            return None
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as out:
            state_file.write(out, head, state)
        os.replace(temporary, path)
        _sync_folder(key_folder)
    except OSError as ex:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        record_trouble(f"A state of {len(state)} bytes could not be stored: {ex.strerror}.")
        return None
    return Saved(path.stat().st_size, time.perf_counter() - started)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sessions() -> Iterator[state_file.Session]:
    """The checked heads of all files, most recently used first."""
    for path in reversed(state_files()):
        session = _sound(path, state_file.read_head)
        if session is not None:
            yield session


def record_trouble(text: str) -> None:
    """Keep the latest thing that went wrong, for ``doctor`` alone to show."""
    with contextlib.suppress(OSError):
        (made_folder() / "note.txt").write_text(f"{time.strftime('%Y-%m-%d %H:%M')}: {text}\n")


def latest_trouble() -> str:
    """When and what, in one sentence; empty where nothing went wrong."""
    try:
        return (folder() / "note.txt").read_text().strip()
    except OSError:
        return ""
