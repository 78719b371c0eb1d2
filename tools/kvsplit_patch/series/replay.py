"""One patch onto another tree, in memory: a three-way merge, and what became of the patch.

No common history is needed. What a merge lets pass without a conflict is compared with what the patch did at its base.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..upstream import store
from . import resolving
from .patchset import Step
from .resolutions import Resolution

#: What can become of a patch.
CLEAN = "clean"
CONFLICT = "conflict"
UPSTREAM = "already upstream"
PARTLY = "partly upstream"
DELETES = "deletes upstream lines"
RESOLVED = "resolved as kept"
#: What needs no person.
DONE = (CLEAN, RESOLVED)
BOTH_ADD = "upstream has a file there, and the patch adds one: make one of them, or give the patch's another name"


@dataclass(frozen=True)
class Replayed:
    """What became of one patch.

    ``tree``: the merged tree, with conflicting files as they stood before the patch.
    ``conflicts``: (path, what each side did). ``lines``: for DELETES, upstream lines the patch would remove;
    for PARTLY, the patch's own lines (with their sign) that are there already.
    ``elsewhere``: files it changes now and did not at its base, because upstream renamed one, or seems to have.
    """

    state: str
    tree: str
    conflicts: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    def summary(self) -> str:
        return self.state + (f", now in {', '.join(self.elsewhere)}" if self.elsewhere else "")


def onto(
    repo, steps: Iterable[Step], base: str, kept: Mapping[str, Resolution]
) -> Iterator[tuple[Step, str, Replayed]]:
    """Replay steps one after another: each with the tree before it and what became of it.

    ``kept``: patch -> how a person resolved it on this upstream, see ``Series.kept``.
    The next goes onto its outcome's tree, which is the one before it where it conflicts.
    """
    for step in steps:
        outcome = replay(repo, step, base, kept.get(step.name))
        yield step, base, outcome
        base = outcome.tree


def replay(repo, step: Step, current: str, resolution: Resolution | None = None) -> Replayed:
    """Merge what a patch does at its base into the tree ``current``, and say what became of it.

    A resolution that does not fit any more leaves a conflict, even where the merge is clean: it mended what merges
    without one.
    """
    if resolution is None:
        return _by_merge(repo, step, current)
    tree = resolving.apply(repo, resolution, step, current)
    if tree:
        return Replayed(RESOLVED, tree)
    misfit = f"patchset/{resolution.path}", "it was kept for this upstream, and does not fit the patch any more"
    return Replayed(CONFLICT, current, (misfit, *_by_merge(repo, step, current).conflicts))


def _by_merge(repo, step: Step, current: str) -> Replayed:
    paths = changed_paths(repo, step.before, step.after)
    before, after, now = (
        {path: store.entry_at(repo, tree, path) for path in paths} for tree in (step.before, step.after, current)
    )
    if before and now == before and all(_has_room(repo, current, path) for path in after):
        # Upstream left every file of the patch as it was: most of its commits do.
        return Replayed(CLEAN, store.tree_with(repo, current, after))
    index = merge(repo, step, current)
    conflicts = tuple(_describe(repo, sides) for sides in index.conflicts or ())
    if conflicts:
        return Replayed(CONFLICT, current, conflicts)
    return classify(repo, step, current, str(index.write_tree(repo)))


def _has_room(repo, tree: str, path: str) -> bool:
    """Whether no file of the tree lies where a path needs a folder."""
    parents = (store.entry_at(repo, tree, str(parent)) for parent in PurePosixPath(path).parents[:-1])
    return not any(entry and entry[0] != 0o040000 for entry in parents)


def merge(repo, step: Step, current: str):
    """The index of the three-way merge; its conflicts are still in it."""
    from pygit2.enums import MergeFlag

    return repo.merge_trees(step.before, current, step.after, flags=MergeFlag.FIND_RENAMES)


def classify(repo, step: Step, current: str, merged: str) -> Replayed:
    """Compare line by line what a patch did at its base with what its replay does now.

    Counting lines over all changed files, rather than comparing hunks, makes this blind to where lines lie
    and to how a diff happens to align them.
    """
    if merged == current:
        return Replayed(UPSTREAM, merged)
    meant, done = line_changes(repo, step.before, step.after), line_changes(repo, current, merged)
    deleted = deleted_beyond(meant, done)
    if deleted:
        return Replayed(DELETES, merged, lines=deleted)
    taken = left_out(meant, done)
    elsewhere = set(changed_paths(repo, current, merged)) - set(changed_paths(repo, step.before, step.after))
    return Replayed(PARTLY if taken else CLEAN, merged, lines=taken, elsewhere=tuple(sorted(elsewhere)))


def changed_paths(repo, old: str, new: str) -> list[str]:
    return [delta.new_file.path for delta in repo.diff(repo[old], repo[new]).deltas]


def line_changes(repo, old: str, new: str) -> Counter[str]:
    """How many more copies of each line the new tree holds than the old one, over the files that differ."""
    from pygit2.enums import DiffOption

    total: Counter[str] = Counter()
    # Lines that did not change count the same on both sides, so those that a diff shows are enough.
    for file in repo.diff(repo[old], repo[new], flags=DiffOption.FORCE_TEXT, context_lines=0):
        for hunk in file.hunks:
            for line in hunk.lines:
                if line.origin in "+-":
                    text = line.raw_content.decode(errors="replace").rstrip("\r\n")
                    total[text] += 1 if line.origin == "+" else -1
    return Counter({line: count for line, count in total.items() if count})


def deleted_beyond(meant: Counter, done: Counter) -> tuple[str, ...]:
    """Lines of which a replay removes more copies than the patch did at its base."""
    return tuple(line for line, count in done.items() if count < min(meant[line], 0) and line.strip())


def left_out(meant: Counter, done: Counter) -> tuple[str, ...]:
    """The patch's own lines, with their sign, that its replay does not bring; braces and the like do not count."""
    return tuple(
        ("+" if count > 0 else "-") + line
        for line, count in meant.items()
        if abs(done[line]) < abs(count) and any(character.isalnum() for character in line)
    )


def _describe(repo, sides) -> tuple[str, str]:
    ancestor, ours, theirs = sides
    path = (ours or theirs or ancestor).path
    if ancestor is None:
        return path, BOTH_ADD
    if ours is None:
        return path, "upstream deleted or moved it, the patch changes it"
    if theirs is None:
        return path, "the patch deletes it, upstream changed it"
    return path, "upstream changed the same lines"
