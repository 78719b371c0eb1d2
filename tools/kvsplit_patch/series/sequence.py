"""Changing the series step by step: replay, stop for a person, go on, and put the new ``patchset/`` in place.

Every command that changes ``patchset/`` runs through here. The journal is on disk before anything that a person would
miss: a process killed anywhere leaves something to ``continue`` or ``abort``, and ``patchset/`` whole.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from ..errors import PatchError
from ..paths import cache_dir
from ..upstream import store
from . import folders, gitdiff, journal, patchset, placing, replay, workfolder
from .journal import Change
from .patchset import Lock, Step


def start(project: Path, what: str, lock: Lock, todo: Sequence[Step], done: Sequence[Step] = ()) -> None:
    """Begin a change and carry it as far as it goes without a person. Call with the checkout's lock held.

    ``lock``: of its fields ``series_version``, ``upstream`` and ``base_tree`` are those of the series to come.
    Raises PatchError where a person is needed, the change kept for ``go_on``.
    """
    _require_none(project)
    placing.discard(project)  # what a kill left before its journal was written
    work = cache_dir() / "work" / hashlib.sha256(str(project).encode()).hexdigest()[:12]
    repo = store.open_store()
    for step in todo:
        gitdiff.write_diff(repo, step.before, step.after, step.name)  # refuses now what could not be exported later
    old = patchset.digest(project / "patchset")
    change = Change(what, lock.series_version, lock.upstream, lock.base_tree, tuple(done), tuple(todo), str(work), old)
    journal.write(project, change)
    _run(project, change)


def go_on(project: Path) -> None:
    """Take the work folder's content as the stopped patch's result and carry on; also picks up after a kill."""
    change = journal.require(project)
    if not change.new:
        _require_objects(change)
    if change.stopped:
        change = _take_resolution(project, change)
    _run(project, change)


def skip(project: Path) -> None:
    """Drop the patch that is stopped and carry on."""
    change = journal.require(project)
    _require_objects(change)
    if not change.stopped:
        raise PatchError(f"{change.what} did not stop at a patch: run 'kvsplit-patch continue' or 'abort'.")
    click.echo(f"{change.todo[0].name}: dropped")
    change = replace(change, todo=change.todo[1:], stopped="")
    journal.write(project, change)
    _remove_work(project, change)
    _run(project, change)


def abort(project: Path) -> bool:
    """Forget the unfinished change. False if it was already in place, and so finished instead."""
    change = journal.require(project)
    if change.new and patchset.digest(project / "patchset") != change.old:
        placing.finish(project, change)
        return False
    _remove_work(project, change)
    placing.discard(project)
    journal.remove(project)
    return True


def undo(project: Path) -> None:
    """Put back the series as it was before the last finished change, an undo included."""
    _require_none(project)
    note, folder = placing.previous(project)
    now = patchset.digest(project / "patchset")
    if now != note["new"]:
        raise PatchError(f"patchset/ was changed after {note['what']}: use git to get the older series back.")
    lock = patchset.read_lock(folder)
    placing.write(project, folders.read(folder))
    what = f"undo of {note['what']}"
    placing.put(project, Change(what, lock.series_version, lock.upstream, lock.base_tree, (), (), "", now))


def _require_none(project: Path) -> None:
    if unfinished := journal.read(project):
        raise PatchError(f"{unfinished.what} is not finished: run 'kvsplit-patch continue', 'skip' or 'abort' first.")


def _require_objects(change: Change) -> None:
    """A cache may be emptied at any time, also in the middle of a rebase."""
    repo = store.open_store()
    trees = [change.base_tree, *(tree for step in (*change.done, *change.todo) for tree in (step.before, step.after))]
    if any(tree not in repo for tree in trees):
        raise PatchError(f"The cache was emptied since {change.what} began: run 'kvsplit-patch abort' and begin again.")


# --- steps --------------------------------------------------------------------------------------


def _run(project: Path, change: Change) -> None:
    if change.new:
        placing.finish(project, change)
        return
    repo = store.open_store()
    kept = patchset.load(project / "patchset").kept(change.base_tree)
    for step, _, outcome in replay.onto(repo, change.todo, change.current(), kept):
        if outcome.state not in replay.DONE:
            change = replace(change, stopped=outcome.state)
            journal.write(project, change)
            _ask(project, repo, change, outcome)
        dropped = outcome.state == replay.RESOLVED and outcome.tree == change.current()
        click.echo(f"{step.name}: {outcome.summary()}{', which is to drop it' if dropped else ''}")
        change = replace(change, todo=change.todo[1:]) if dropped else change.advanced(outcome.tree)
    files = patchset.export(repo, change.series_version, change.upstream, change.base_tree, change.done)
    if patchset.digest(project / "patchset") != change.old:
        raise PatchError(
            f"patchset/ was edited since {change.what} began: undo the edit and run 'kvsplit-patch continue', or run 'abort'."
        )
    placing.write(project, files)
    placing.put(project, change)


def _ask(project: Path, repo, change: Change, outcome: replay.Replayed) -> NoReturn:
    """Lay the stopped patch out for a person, and say what is asked of them."""
    step = change.todo[0]
    commits = [(f"llama.cpp {change.upstream.commit}", change.base_tree), *map(workfolder.commit_of, change.done)]
    workfolder.create(
        Path(change.work), _note(project, change), commits, lambda work: replay.merge(work, step, change.current())
    )
    click.echo(f"{step.name}: {outcome.summary()}")
    for path, why in outcome.conflicts:
        click.echo(f"    {path}: {why}")
    if outcome.conflicts:
        click.echo(
            "    (in its markers, ours is what the patch goes onto, ancestor what it was made for, theirs that with the patch)"
        )
    for line in outcome.lines:
        click.echo(f"    {line}")
    advice = {
        replay.CONFLICT: "resolve it in {0} and run 'kvsplit-patch continue', or run 'skip' or 'abort'",
        replay.UPSTREAM: "run 'kvsplit-patch skip' to drop it, or 'abort'",
        replay.PARTLY: "look at the rest of it in {0} and run 'kvsplit-patch continue' to keep that, or run 'skip' or 'abort'",
        replay.DELETES: "put the lines above back in {0}, or leave them out, and run 'kvsplit-patch continue', 'skip' or 'abort'",
    }
    raise PatchError(
        f"{change.what} stopped at {step.name} ({outcome.state}): {advice[outcome.state].format(change.work)}."
    )


def _note(project: Path, change: Change) -> dict[str, str]:
    """What tells the work folder of this stop from one that an earlier change left behind."""
    return {"kind": "conflict", "checkout": str(project), "patch": change.todo[0].name, "onto": change.current()}


def _take_resolution(project: Path, change: Change) -> Change:
    repo = store.open_store()
    step, current, work = change.todo[0], change.current(), Path(change.work)
    kept = patchset.load(project / "patchset").kept(change.base_tree)
    outcome = replay.replay(repo, step, current, kept.get(step.name))
    if workfolder.read_note(work) != _note(project, change):
        _ask(project, repo, change, outcome)  # killed before the folder was there, or somebody removed it
    left = workfolder.unresolved(work, outcome.conflicts, (current, step.after))
    if left:
        raise PatchError(
            f"{step.name} is not resolved in {work} ({'; '.join(left)}): finish it and run 'kvsplit-patch continue' again."
        )
    tree = workfolder.read(work)
    if tree == current:
        raise PatchError(
            f"{work} holds no change for {step.name}: make one, or run 'kvsplit-patch skip' to drop the patch."
        )
    gitdiff.write_diff(repo, current, tree, step.name)  # a binary file is refused while it can still be taken out
    _show_difference(repo, step, current, tree)
    click.echo(f"{step.name}: resolved")
    change = change.advanced(tree)
    journal.write(project, change)
    _remove_work(project, change)
    return change


def _show_difference(repo, step: Step, current: str, tree: str) -> None:
    """What a resolution does otherwise than the patch did: worth a look, since no merge checks a person's hand."""
    meant, done = replay.line_changes(repo, step.before, step.after), replay.line_changes(repo, current, tree)
    more_files = {*replay.changed_paths(repo, current, tree)} - {*replay.changed_paths(repo, step.before, step.after)}
    for heading, lines in (
        (f"{step.name} now removes lines of upstream that it left alone before:", replay.deleted_beyond(meant, done)),
        (f"{step.name} no longer brings:", replay.left_out(meant, done)),
        (f"{step.name} now also changes:", sorted(more_files)),
    ):
        if lines:
            click.echo("\n".join([heading, *(f"    {line}" for line in lines)]))


def _remove_work(project: Path, change: Change) -> None:
    if workfolder.is_from_conflict(Path(change.work), str(project)):
        shutil.rmtree(change.work)
