"""Changing the series step by step: replay, stop for a person, go on, and put the new ``patchset/`` in place.

Every command that changes ``patchset/`` runs through here. The journal is on disk before each step, so a
process killed anywhere leaves something to ``continue`` or ``abort``, and ``patchset/`` whole.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import click

from ..errors import PatchError
from ..paths import cache_dir
from ..upstream import store
from . import folders, gitdiff, journal, patchset, placing, replay, workfolder
from .journal import State
from .patchset import Series, Step, Upstream


def start(
    project: Path, what: str, loaded: Series, target: Upstream, base_tree: str, done, todo, work=None, version=None
):
    """Begin a change and carry it as far as it goes without a person. Call with the checkout's lock held.

    ``work``: where a conflict is to be laid out, by default a folder in the cache.
    Raises PatchError where a person is needed, the state kept for ``go_on``.
    """
    unfinished = journal.read(project)
    if unfinished:
        raise PatchError(f"{unfinished.what} is not finished: run kvsplit-patch continue, skip or abort first.")
    placing.discard(project)  # what a kill left before its journal was written
    _drop_refs(project)
    work = Path(work).resolve() if work else cache_dir() / "work" / _short(project)
    if project in (work, *work.parents):
        raise PatchError(f"{work} is inside the checkout: name a work folder outside it.")
    repo = store.open_store()
    for step in todo:
        gitdiff.write_diff(repo, step.before, step.after, step.name)  # refuses now what could not be exported later
    state = State(
        what=what,
        checkout=str(project),
        series_version=version or loaded.lock.series_version,
        upstream=target,
        base_tree=base_tree,
        done=tuple(done),
        todo=tuple(todo),
        work=str(work),
        old=patchset.digest(project / "patchset"),
    )
    journal.write(project, state)
    _run(project, state)


def go_on(project: Path):
    """Take the work folder's content as the stopped patch's result and carry on; also picks up after a kill."""
    state = journal.require(project)
    if not state.new:
        _require_objects(state)
    if state.stopped:
        state = _take_resolution(project, state)
    _run(project, state)


def _require_objects(state: State):
    """A cache may be emptied at any time, also in the middle of a rebase."""
    repo = store.open_store()
    trees = [state.base_tree, *(tree for step in (*state.done, *state.todo) for tree in (step.before, step.after))]
    if any(tree not in repo for tree in trees):
        raise PatchError(f"The cache was emptied since {state.what} began: run kvsplit-patch abort and begin again.")


def skip(project: Path):
    """Drop the patch that is stopped and carry on."""
    state = journal.require(project)
    _require_objects(state)
    if not state.stopped:
        raise PatchError(f"{state.what} did not stop at a patch: run kvsplit-patch continue or abort.")
    click.echo(f"{state.todo[0].name}: dropped")
    state = replace(state, todo=state.todo[1:], stopped="")
    journal.write(project, state)
    _remove_work(state)
    _run(project, state)


def abort(project: Path) -> bool:
    """Forget the unfinished change. False if it was already in place, and so finished instead."""
    state = journal.require(project)
    if state.new and patchset.digest(project / "patchset") != state.old:
        _settle(project, state)
        return False
    _remove_work(state)
    placing.discard(project)
    _drop_refs(project)
    journal.remove(project)
    return True


def undo(project: Path) -> str:
    """Put back the series as it was before the last finished change, an undo included; says which that was."""
    unfinished = journal.read(project)
    if unfinished:
        raise PatchError(f"{unfinished.what} is not finished: run kvsplit-patch continue, skip or abort first.")
    note, folder = placing.previous(project)
    now = patchset.digest(project / "patchset")
    if now != note["new"]:
        raise PatchError(f"patchset/ was changed after {note['what']}: use git to get the older series back.")
    lock = patchset.read_lock(folder)
    placing.write(project, folders.read(folder))
    state = State(
        what=f"undo of {note['what']}",
        checkout=str(project),
        series_version=lock.series_version,
        upstream=lock.upstream,
        base_tree=lock.base_tree,
        done=(),
        todo=(),
        work="",
        old=now,
    )
    placing.put(project, state)
    return note["what"]


# --- steps --------------------------------------------------------------------------------------


def _run(project: Path, state: State):
    if state.new:
        _settle(project, state)
        return
    repo = store.open_store()
    for step, _, outcome in replay.onto(repo, state.todo, state.current()):
        if outcome.state != replay.CLEAN:
            state = replace(state, stopped=outcome.state)
            journal.write(project, state)
            _ask(repo, state, step, outcome)
        click.echo(f"{step.name}: {outcome.summary()}")
        state = _done(project, repo, state, outcome.tree)
    _finish(project, repo, state)


def _done(project, repo, state: State, tree: str) -> State:
    step = state.todo[0]
    # The journal alone does not keep objects from `git gc` in the store.
    repo.references.create(f"{_refs(project)}/{step.name}", tree, force=True)
    moved = Step(step.name, step.header, state.current(), tree)
    state = replace(state, done=(*state.done, moved), todo=state.todo[1:], stopped="")
    journal.write(project, state)
    return state


def _ask(repo, state: State, step: Step, outcome):
    """Lay the stopped patch out for a person, and say what is asked of them."""
    _lay_out(repo, state, step)
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
        replay.CONFLICT: "resolve it in {0} and run kvsplit-patch continue, or run skip or abort",
        replay.UPSTREAM: "run kvsplit-patch skip to drop it, or abort",
        replay.PARTLY: "look at the rest of it in {0} and run kvsplit-patch continue to keep that, or run skip or abort",
        replay.DELETES: "put the lines above back in {0}, or leave them out, and run kvsplit-patch continue, skip or abort",
    }
    raise PatchError(
        f"{state.what} stopped at {step.name} ({outcome.state}): {advice[outcome.state].format(state.work)}."
    )


def _lay_out(repo, state: State, step: Step):
    commits = [(f"llama.cpp {state.upstream.commit}", state.base_tree)]
    commits += [(f"{done.name}\n\n{done.header.description}", done.after) for done in state.done]
    workfolder.create(Path(state.work), _note(state), commits, lambda work: replay.merge(work, step, state.current()))


def _note(state: State) -> dict:
    """What tells the work folder of this stop from one that an earlier change left behind."""
    return {"kind": "conflict", "checkout": state.checkout, "patch": state.todo[0].name, "onto": state.current()}


def _take_resolution(project: Path, state: State) -> State:
    repo = store.open_store()
    step, current, work = state.todo[0], state.current(), Path(state.work)
    outcome = replay.replay(repo, step, current)
    if workfolder.find_note(work) != _note(state):
        _ask(repo, state, step, outcome)  # killed before the folder was there, or somebody removed it
    left = workfolder.unresolved(work, outcome.conflicts, (current, step.after))
    if left:
        raise PatchError(
            f"{step.name} is not resolved in {work} ({'; '.join(left)}): finish it and run kvsplit-patch continue again."
        )
    tree = workfolder.read(work)
    if tree == current:
        raise PatchError(
            f"{work} holds no change for {step.name}: make one, or run kvsplit-patch skip to drop the patch."
        )
    gitdiff.write_diff(repo, current, tree, step.name)  # a binary file is refused while it can still be taken out
    _show_difference(repo, step, current, tree)
    click.echo(f"{step.name}: resolved")
    state = _done(project, repo, state, tree)
    _remove_work(state)
    return state


def _show_difference(repo, step: Step, current: str, tree: str):
    """What a resolution does otherwise than the patch did: worth a look, since no merge checks a person's hand."""
    meant, done = replay.line_changes(repo, step.before, step.after), replay.line_changes(repo, current, tree)
    changed_before = set(replay.changed_paths(repo, step.before, step.after))
    changed_now = set(replay.changed_paths(repo, current, tree))
    for heading, lines in (
        (f"{step.name} now removes lines of upstream that it left alone before:", replay.deleted_beyond(meant, done)),
        (f"{step.name} no longer brings:", replay.left_out(meant, done)),
        (f"{step.name} now also changes:", sorted(changed_now - changed_before)),
    ):
        if lines:
            click.echo("\n".join([heading, *(f"    {line}" for line in lines)]))


def _finish(project: Path, repo, state: State):
    files = patchset.export(repo, state.series_version, state.upstream, state.base_tree, state.done)
    if patchset.digest(project / "patchset") != state.old:
        raise PatchError(
            f"patchset/ was edited since {state.what} began: undo the edit and run continue, or run abort."
        )
    placing.write(project, files)
    placing.put(project, state)
    _drop_refs(project)


def _settle(project: Path, state: State):
    placing.settle(project, state)
    _drop_refs(project)


def _remove_work(state: State):
    if workfolder.is_from_conflict(Path(state.work), state.checkout):
        shutil.rmtree(state.work)


def _short(project: Path) -> str:
    return hashlib.sha256(str(project).encode()).hexdigest()[:12]


def _refs(project: Path) -> str:
    return f"{store.REFS}/change/{_short(project)}"


def _drop_refs(project: Path):
    repo = store.open_store()
    for ref in [ref for ref in repo.references if ref.startswith(_refs(project) + "/")]:
        repo.references.delete(ref)
