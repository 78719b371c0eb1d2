"""Moving patches onto another commit, in memory: one three-way merge a patch, no common history needed.

For the build: ``apply_series(commit)`` gives the tree ids of the patched sources, ``sources.materialize``
turns one into a folder.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from ..errors import PatchError
from ..paths import patchset_dir
from ..upstream import revisions, store
from . import gitdiff, patchset
from .patchset import Series, Step

CLEAN, CONFLICT, UPSTREAM, PARTLY, DELETES = (
    "clean",
    "conflict",
    "already upstream",
    "partly upstream",
    "deletes upstream lines",
)
BOTH_ADD = "upstream has a file there, and the patch adds one: make one of them, or give the patch's another name"


@dataclass(frozen=True)
class Applied:
    """The series on one commit: 40-hex tree ids, ``after[i]`` being the tree with the first i+1 patches."""

    commit: str
    base_tree: str
    after: tuple[str, ...]
    result_tree: str


@dataclass(frozen=True)
class Outcome:
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


@dataclass(frozen=True)
class Watched:
    """Upstream's change to a file that a patch touches or watches: lines added and removed, or what became of it."""

    patch: str
    path: str
    added: int
    removed: int
    note: str = ""


def steps_at_base(loaded: Series) -> list[Step]:
    """Apply the series strictly to the commit in its lock. Raises PatchError where a patch does not fit."""
    tree, steps = _locked_base(loaded), []
    for patch in loaded.patches:
        steps.append(_applied(patch, tree))
        tree = steps[-1].after
    return steps


def steps_as_edited(loaded: Series) -> tuple[list[Step], list[Step]]:
    """The patches as they are now: those that follow one on another, and those to be replayed onto them.

    Where one was edited, moved or taken out, the next may no longer fit: then each is applied to the tree that the
    lock has before it, a new one to the tree after its neighbour. Raises PatchError where that does not fit either.
    """
    try:
        return steps_at_base(loaded), []
    except PatchError:
        repo, base = store.open_store(), _locked_base(loaded)
        locked = {patch.name: patch.tree for patch in loaded.lock.patches}
        before = dict(zip(locked, (base, *locked.values())))
        if any(tree not in repo for tree in before.values()):
            if [name for name in loaded.names() if name in locked] == list(locked):
                raise
            raise PatchError(
                "The cache lacks the trees of the old order: restore patchset/ with git checkout, "
                "run kvsplit-patch lint, and edit it again."
            ) from None
    steps: list[Step] = []
    for patch in loaded.patches:
        steps.append(_applied(patch, before.get(patch.name) or (steps[-1].after if steps else base)))
    return [], steps


def _locked_base(loaded: Series) -> str:
    tree = revisions.ensure(loaded.lock.upstream)
    if tree != loaded.lock.base_tree:
        raise PatchError(
            f"lock.json says that {loaded.lock.upstream.commit} has the tree {loaded.lock.base_tree}, "
            f"but it has {tree}: restore lock.json with git checkout."
        )
    return tree


def _applied(patch: patchset.Patch, tree: str) -> Step:
    after = gitdiff.apply_diff(store.open_store(), tree, patch.sections(), patch.name)
    return Step(patch.name, patch.header, tree, after)


def apply_series(commit: str | None = None, through: str | None = None) -> Applied:
    """The series (or its patches up to and including ``through``) on its base, or replayed onto ``commit``.

    Fetches what the store lacks of the base; ``commit`` must be there already (``upstream.resolve``).
    Raises PatchError when a patch does not replay cleanly: that is for ``kvsplit-patch rebase`` to settle.
    """
    loaded = patchset.load(patchset_dir())
    steps = steps_at_base(loaded)
    if through is not None:
        steps = steps[: loaded.index(through) + 1]
    commit = commit or loaded.lock.upstream.commit
    base = loaded.lock.base_tree
    if commit != loaded.lock.upstream.commit:
        repo = store.open_store()
        base = store.tree_of(repo, commit)
        steps = moved(repo, steps, base, commit)
    after = tuple(step.after for step in steps)
    return Applied(commit, base, after, after[-1] if after else base)


def moved(repo, steps, base: str, commit: str) -> list[Step]:
    """The steps on ``base``, the tree of ``commit``. Raises PatchError unless each patch is clean there."""
    require_range(repo, steps, base, commit)
    there = []
    for step, before, outcome in onto(repo, steps, base):
        if outcome.state != CLEAN:
            why = "".join(f"; {path}: {reason}" for path, reason in outcome.conflicts[:1])
            raise PatchError(
                f"{step.name} does not replay onto {commit} ({outcome.state}{why}): run kvsplit-patch rebase {commit}."
            )
        there.append(Step(step.name, step.header, before, outcome.tree))
    return there


def onto(repo, steps, base: str) -> Iterator[tuple[Step, str, Outcome]]:
    """Replay steps one after another: each with the tree before it and what became of it.

    The next goes onto its outcome's tree, which is the one before it where it conflicts.
    """
    for step in steps:
        outcome = replay(repo, step, base)
        yield step, base, outcome
        base = outcome.tree


def require_range(repo, steps, base: str, target: str):
    """Raises PatchError when the tree ``base`` of ``target`` lacks a file that a patch needs: it is out of range."""
    for step in steps:
        if missing := lacking(repo, step, base):
            raise PatchError(
                f"{target} is outside the range of the series: {step.name} needs {missing[0]}, which llama.cpp does not have "
                "there; name a later commit, or take the patch out of patchset/series and run kvsplit-patch export."
            )


def lacking(repo, step, base: str) -> list[str]:
    """The files that a patch needs and the tree ``base`` does not have."""
    return [path for path in step.header.needs if not store.entry_at(repo, base, path)]


def replay(repo, step: Step, current: str) -> Outcome:
    """Merge what a patch does at its base into the tree ``current``, and say what became of it."""
    paths = changed_paths(repo, step.before, step.after)
    before, after, now = (
        {path: store.entry_at(repo, tree, path) for path in paths} for tree in (step.before, step.after, current)
    )
    if before and now == before and all(_has_room(repo, current, path) for path in after):
        # Upstream left every file of the patch as it was: most of its commits do.
        return Outcome(CLEAN, store.tree_with(repo, current, after))
    index = merge(repo, step, current)
    conflicts = tuple(_describe(repo, sides) for sides in index.conflicts or ())
    if conflicts:
        return Outcome(CONFLICT, current, conflicts)
    return classify(repo, step, current, str(index.write_tree(repo)))


def _has_room(repo, tree: str, path: str) -> bool:
    """Whether no file of the tree lies where a path needs a folder."""
    parents = (store.entry_at(repo, tree, str(parent)) for parent in PurePosixPath(path).parents[:-1])
    return not any(entry and entry[0] != 0o040000 for entry in parents)


def merge(repo, step: Step, current: str):
    """The index of the three-way merge; its conflicts are still in it."""
    from pygit2.enums import MergeFlag

    return repo.merge_trees(step.before, current, step.after, flags=MergeFlag.FIND_RENAMES)


def classify(repo, step: Step, current: str, merged: str) -> Outcome:
    """Compare line by line what a patch did at its base with what its replay does now.

    Counting lines over all changed files, rather than comparing hunks, makes this blind to where lines lie
    and to how a diff happens to align them.
    """
    if merged == current:
        return Outcome(UPSTREAM, merged)
    meant, done = line_changes(repo, step.before, step.after), line_changes(repo, current, merged)
    deleted = deleted_beyond(meant, done)
    if deleted:
        return Outcome(DELETES, merged, lines=deleted)
    taken = left_out(meant, done)
    elsewhere = set(changed_paths(repo, current, merged)) - set(changed_paths(repo, step.before, step.after))
    return Outcome(PARTLY if taken else CLEAN, merged, lines=taken, elsewhere=tuple(sorted(elsewhere)))


def changed_paths(repo, old, new) -> list[str]:
    return [delta.new_file.path for delta in repo.diff(repo[str(old)], repo[str(new)]).deltas]


def line_changes(repo, old, new) -> Counter:
    """How many more copies of each line the new tree holds than the old one, over the files that differ."""
    from pygit2.enums import DiffOption

    total = Counter()
    # Lines that did not change count the same on both sides, so those that a diff shows are enough.
    for file in repo.diff(repo[str(old)], repo[str(new)], flags=DiffOption.FORCE_TEXT, context_lines=0):
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


def watched_changes(repo, loaded: Series, old_base: str, new_base: str) -> list[Watched]:
    """Upstream's changes between two trees to the files each patch touches or watches."""
    import pygit2
    from pygit2.enums import DeltaStatus

    diff = repo.diff(repo[str(old_base)], repo[str(new_base)])
    # By name only: comparing the content of every file that came or went takes seconds between releases.
    new_homes = {
        PurePosixPath(d.new_file.path).name: d.new_file.path for d in diff.deltas if d.status == DeltaStatus.ADDED
    }
    found = []
    for patch in loaded.patches:
        interesting = (*patch.touched(), *patch.header.watch)
        for delta in diff.deltas:
            if not any(watches(pattern, delta.old_file.path) for pattern in interesting):
                continue
            note = "new" if delta.status == DeltaStatus.ADDED else ""
            if delta.status == DeltaStatus.DELETED:
                moved = new_homes.get(PurePosixPath(delta.old_file.path).name)
                note = f"deleted, maybe now {moved}" if moved else "deleted"
            sides = (repo.get(side.id) if side.mode else None for side in (delta.old_file, delta.new_file))
            old, new = (side.data if isinstance(side, pygit2.Blob) else b"" for side in sides)
            _, added, removed = pygit2.Patch.create_from(old, new).line_stats
            found.append(Watched(patch.name, delta.old_file.path, added, removed, note))
    return found


def watches(pattern: str, path: str) -> bool:
    return path.startswith(pattern) if pattern.endswith("/") else fnmatch(path, pattern)
