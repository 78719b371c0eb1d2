"""What upstream changed where a patch depends on it: the worst breaks merge without a conflict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from .patchset import Patch, Series, Step

if TYPE_CHECKING:
    from pygit2 import DiffDelta

#: Changed files between two upstream trees.
Deltas: TypeAlias = "tuple[DiffDelta, ...]"


@dataclass(frozen=True)
class Watched:
    """Upstream's change to a file that a patch touches or watches: lines added and removed, or what became of it."""

    patch: str
    path: str
    added: int
    removed: int
    note: str = ""


@dataclass(frozen=True)
class WatchedLine:
    """A line of upstream's that is new, and that the patch watches for. ``number`` counts from 1 in the new file."""

    patch: str
    path: str
    number: int
    text: str


def between(repo, old_base: str, new_base: str) -> Deltas:
    """What upstream changed between two trees, file by file. Months of it take a second: ask once for all below."""
    return tuple(repo.diff(repo[old_base], repo[new_base]).deltas)


def changes(repo, loaded: Series, upstream: Deltas) -> Iterator[Watched]:
    """Upstream's changes to the files each patch touches or watches."""
    import pygit2
    from pygit2.enums import DeltaStatus

    # By name only: comparing the content of every file that came or went takes seconds between releases.
    new_homes = {
        PurePosixPath(d.new_file.path).name: d.new_file.path for d in upstream if d.status == DeltaStatus.ADDED
    }
    for patch in loaded.patches:
        concerned = concerns(patch)
        for delta in upstream:
            path = delta.old_file.path
            if not concerned(path):
                continue
            note = "new" if delta.status == DeltaStatus.ADDED else ""
            if delta.status == DeltaStatus.DELETED:
                home = new_homes.get(PurePosixPath(path).name)
                note = f"deleted, maybe now {home}" if home else "deleted"
            _, added, removed = pygit2.Patch.create_from(*_contents(repo, delta)).line_stats
            yield Watched(patch.name, path, added, removed, note)


def new_lines(repo, loaded: Series, upstream: Deltas) -> Iterator[WatchedLine]:
    """The lines upstream added, in the files each patch concerns, that the patch watches for."""
    patches = [(patch, concerns(patch)) for patch in loaded.patches if patch.header.watch_for]
    if not patches:
        return
    for delta in upstream:
        path = delta.new_file.path
        interested = [patch for patch, concerned in patches if concerned(path)]
        if not interested:
            continue
        added = [
            (line.number, line.text.strip())
            for hunk in _hunks(*_contents(repo, delta))
            for line in hunk.lines
            if line.origin == "+"
        ]
        for patch in interested:
            for number, text in added:
                if any(_matches(expression, text) for expression in patch.header.watch_for):
                    yield WatchedLine(patch.name, path, number, text)


def function_changes(repo, steps: list[Step], upstream: Deltas) -> Iterator[tuple[str, str, str]]:
    """Upstream's changes to the functions that a patch changes: the patch, the file, and the text of a hunk."""
    by_path = {delta.old_file.path: delta for delta in upstream}
    for step in steps:
        for ours in repo.diff(repo[step.before], repo[step.after]).deltas:
            theirs = by_path.get(ours.old_file.path)
            if not theirs or not theirs.old_file.mode or not theirs.new_file.mode or not ours.old_file.mode:
                continue
            touched = set(_functions(*_contents(repo, ours)).values())
            old, new = _contents(repo, theirs)
            functions = _functions(old, new)
            for number, hunk in enumerate(_hunks(old, new)):
                if {function for (which, _), function in functions.items() if which == number} & touched:
                    body = "".join(f"{line.origin}{line.text}" for line in hunk.lines)
                    yield step.name, ours.old_file.path, hunk.header + body


def _functions(old: bytes, new: bytes) -> dict[tuple[int, int], str]:
    """(number of the hunk, line of the old file) of each change between two texts -> the function it is in."""
    lines = old.decode("utf-8", "replace").splitlines()
    functions = {}
    for number, hunk in enumerate(_hunks(old, new)):
        at = hunk.old_start
        for line in hunk.lines:
            if line.origin in "+-":
                functions[number, at] = _function(lines, at)
            at += line.origin != "+"
    return functions


def _function(lines: list[str], at: int) -> str:
    """The line that begins the function around line ``at`` (from 1), as git finds it: the last one not indented."""
    for line in reversed(lines[: max(0, at - 1)]):
        if (
            re.match(r"[A-Za-z_$@+-]", line)
            and not line.startswith("#")
            and "(" in line
            and not line.rstrip().endswith(";")
        ):
            return line
    return ""


@dataclass(frozen=True)
class _Line:
    origin: str
    #: In the new file, from 1; -1 where the line is not in it.
    number: int
    text: str


@dataclass(frozen=True)
class _Hunk:
    header: str
    old_start: int
    lines: tuple[_Line, ...]


def _hunks(old: bytes, new: bytes) -> list[_Hunk]:
    """The hunks between two texts. Copied, since libgit2's own die with the diff and with the texts."""
    import pygit2

    patch = pygit2.Patch.create_from(old, new)
    return [
        _Hunk(
            hunk.header,
            hunk.old_start,
            tuple(
                _Line(line.origin, line.new_lineno, line.raw_content.decode("utf-8", "replace")) for line in hunk.lines
            ),
        )
        for hunk in patch.hunks
    ]


def _matches(expression: str, text: str) -> bool:
    """``A without B``: the line holds A and does not hold B."""
    wanted, _, unless = expression.partition(" without ")
    return wanted.strip() in text and not (unless and unless.strip() in text)


def _contents(repo, delta) -> tuple[bytes, bytes]:
    """The bytes of both sides of a change; none where a side has no such file."""
    import pygit2

    sides = (repo.get(side.id) if side.mode else None for side in (delta.old_file, delta.new_file))
    old, new = (side.data if isinstance(side, pygit2.Blob) else b"" for side in sides)
    return old, new


def concerns(patch: Patch) -> Callable[[str], bool]:
    """What tells of a path whether the patch touches or watches it."""
    touched, patterns = {*patch.touched()}, patch.header.watch

    def concerned(path: str) -> bool:
        return path in touched or any(
            path.startswith(pattern) if pattern.endswith("/") else fnmatch(path, pattern) for pattern in patterns
        )

    return concerned
