"""Notes to the person beside an answer: on stderr, one line each, and each once in a conversation."""

from __future__ import annotations

import json
import sys

from . import files
from .paths import cache_dir

#: Notes that are remembered; the oldest are forgotten.
_REMEMBERED = 500

#: What this process has written for answers that belong to no logged conversation.
_written: set[str] = set()


def once(text: str, conversation: str | None) -> None:
    """Write the note, unless this conversation (of any process) has had it already.

    ``conversation``: its id in llm's log. Without one, a process writes the note once.
    """
    if text in _written:
        return
    _written.add(text)
    if conversation is not None and not _remember(text, conversation):
        return
    print(f"Note: {text}", file=sys.stderr)


def _remember(text: str, conversation: str) -> bool:
    """Whether this is new; remembered from now on. A cache that cannot be written forgets, and the note is repeated."""
    file = cache_dir() / "notes.json"
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        written = [entry for entry in written if isinstance(entry, list)]
    except (OSError, ValueError, TypeError):
        written = []
    if [conversation, text] in written:
        return False
    files.write_cached(file, json.dumps([*written, [conversation, text]][-_REMEMBERED:]))
    return True
