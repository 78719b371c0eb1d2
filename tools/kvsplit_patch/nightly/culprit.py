"""What an upstream commit does to the series: the hunks and the symbols of ours that it touches."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..series import watched
from ..series.patchset import Patch, Series
from ..upstream import store

_WORD = re.compile(r"[A-Za-z_]\w{3,}")
#: Named in a report; a commit that rewrites a file shares hundreds.
_MOST_SYMBOLS = 12


@dataclass(frozen=True)
class Touch:
    """What a commit touches of one patch.

    ``hunks``: those whose lines, or lines beside them, it changes. ``files``: those it changes that the patch changes
    or watches. ``symbols``: names that both use on lines they change.
    """

    patch: str
    files: tuple[str, ...]
    hunks: tuple[str, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True)
class Culprit:
    commit: str
    subject: str
    #: How many files it changes.
    files: int
    touches: tuple[Touch, ...]

    @property
    def patch(self) -> str:
        """The patch it touches most closely; empty when it touches none."""
        closest = max(
            self.touches, key=lambda touch: (len(touch.hunks), len(touch.files), len(touch.symbols)), default=None
        )
        return closest.patch if closest else ""

    def summary(self) -> str:
        lines = [
            f"{self.commit}  {self.subject}",
            f"changes {self.files} files" + ("" if self.touches else ", none of ours"),
        ]
        for touch in self.touches:
            lines.append(f"  {touch.patch}")
            lines += [f"      {hunk}" for hunk in touch.hunks]
            lines += [
                f"      {path} (watched or touched elsewhere)" for path in touch.files if not _names(touch.hunks, path)
            ]
            if touch.symbols:
                lines.append(f"      symbols: {', '.join(touch.symbols)}")
        return "\n".join(lines)


def _names(hunks: tuple[str, ...], path: str) -> bool:
    return any(hunk.startswith(f"{path} ") for hunk in hunks)


def examine(loaded: Series, before: str, commit: str) -> Culprit:
    """Hold what ``commit`` changes since the commit ``before`` against every patch. Both are in the store."""
    import pygit2

    repo = store.open_store()
    diff = repo.diff(repo[before].peel(pygit2.Tree), repo[commit].peel(pygit2.Tree))
    changed = {path for delta in diff.deltas for path in (delta.old_file.path, delta.new_file.path)}
    lines = {}  # path -> (lines in and around the changes, lines changed)
    for part in diff:
        near = [line.content.strip() for hunk in part.hunks for line in hunk.lines]
        own = [line.content.strip() for hunk in part.hunks for line in hunk.lines if line.origin in "+-"]
        lines[part.delta.old_file.path] = (set(near), own)
    symbols = {word for _, own in lines.values() for line in own for word in _symbols(line)}
    touches = (_touch(patch, changed, lines, symbols) for patch in loaded.patches)
    return Culprit(commit, store.subject(repo, commit), len(lines), tuple(touch for touch in touches if touch))


def _touch(patch: Patch, changed: set, lines: dict, symbols: set) -> Touch | None:
    files = tuple(sorted(path for path in changed if watched.concerns(patch, path)))
    hunks = []
    own = [line for _, data in patch.files.values() for line in data.decode(errors="replace").splitlines()]
    for change in patch.changes():
        path = change.delta.old_file.path
        near, _ = lines.get(path, (set(), []))
        for hunk in change.hunks:
            own += [line.content for line in hunk.lines if line.origin in "+-"]
            before = [line.content.strip() for line in hunk.lines if line.origin in " -"]
            # A brace or "return;" is in every file.
            if any(line in near and re.search(r"\w{3}.*\W", line) for line in before):
                end = hunk.old_start + hunk.old_lines - 1
                hunks.append(f"{path} lines {hunk.old_start}-{end} of the base")
    ours = {word for line in own for word in _symbols(line)}
    shared = tuple(sorted(ours & symbols, key=lambda word: (-len(word), word))[:_MOST_SYMBOLS]) if files else ()
    return Touch(patch.name, files, tuple(hunks), shared) if files else None


def _symbols(line: str) -> set[str]:
    """Names that a programmer made up: words of plain prose have no underscore, digit or capital inside."""
    return {word for word in _WORD.findall(line) if re.search(r"\w_\w|\d|[a-z][A-Z]", word)}
