"""Upstream's changes to the files that a patch touches or watches: the worst breaks merge without a conflict."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from .patchset import Patch, Series


@dataclass(frozen=True)
class Watched:
    """Upstream's change to a file that a patch touches or watches: lines added and removed, or what became of it."""

    patch: str
    path: str
    added: int
    removed: int
    note: str = ""


def changes(repo, loaded: Series, old_base: str, new_base: str) -> Iterator[Watched]:
    """Upstream's changes between two trees to the files each patch touches or watches."""
    import pygit2
    from pygit2.enums import DeltaStatus

    diff = repo.diff(repo[old_base], repo[new_base])
    # By name only: comparing the content of every file that came or went takes seconds between releases.
    new_homes = {
        PurePosixPath(d.new_file.path).name: d.new_file.path for d in diff.deltas if d.status == DeltaStatus.ADDED
    }
    for patch in loaded.patches:
        for delta in diff.deltas:
            path = delta.old_file.path
            if not concerns(patch, path):
                continue
            note = "new" if delta.status == DeltaStatus.ADDED else ""
            if delta.status == DeltaStatus.DELETED:
                home = new_homes.get(PurePosixPath(path).name)
                note = f"deleted, maybe now {home}" if home else "deleted"
            sides = (repo.get(side.id) if side.mode else None for side in (delta.old_file, delta.new_file))
            old, new = (side.data if isinstance(side, pygit2.Blob) else b"" for side in sides)
            _, added, removed = pygit2.Patch.create_from(old, new).line_stats
            yield Watched(patch.name, path, added, removed, note)


def concerns(patch: Patch, path: str) -> bool:
    """Whether a patch touches or watches a file."""
    return path in patch.touched() or any(
        path.startswith(pattern) if pattern.endswith("/") else fnmatch(path, pattern) for pattern in patch.header.watch
    )
