"""The whole series applied: strictly to its own base, as it was edited, or replayed onto another commit."""

from collections.abc import Sequence

from ..errors import PatchError
from ..upstream import store
from . import gitdiff, patchset, replay, targets
from .patchset import Series, Step


def at_base(loaded: Series) -> list[Step]:
    """Apply the series strictly to the commit in its lock. Raises PatchError where a patch does not fit."""
    tree, steps = _locked_base(loaded), []
    for patch in loaded.patches:
        steps.append(_applied(patch, tree))
        tree = steps[-1].after
    return steps


def stopping(loaded: Series, steps: Sequence[Step]) -> list[str]:
    """Those of ``steps`` that cannot be applied where the series was made, since others are not among them."""
    outcomes = replay.onto(store.open_store(), steps, loaded.lock.base_tree, {})
    return [step.name for step, _, outcome in outcomes if outcome.state not in replay.DONE]


def as_edited(loaded: Series) -> tuple[list[Step], list[Step]]:
    """The patches as they are now: those that follow one on another, and those to be replayed onto them.

    Where one was edited, moved or taken out, the next may no longer fit: then each is applied to the tree that the
    lock has before it, a new one to the tree after its neighbour. Raises PatchError where that does not fit either.
    """
    try:
        return at_base(loaded), []
    except PatchError:
        repo, base = store.open_store(), _locked_base(loaded)
        locked = {patch.name: patch.tree for patch in loaded.lock.patches}
        before = dict(zip(locked, (base, *locked.values())))
        if any(tree not in repo for tree in before.values()):
            if [name for name in loaded.names() if name in locked] == list(locked):
                raise
            raise PatchError(
                "The cache lacks the trees of the old order: restore patchset/ with 'git checkout', "
                "run 'kvsplit-patch lint', and edit it again."
            ) from None
    steps: list[Step] = []
    for patch in loaded.patches:
        steps.append(_applied(patch, before.get(patch.name) or (steps[-1].after if steps else base)))
    return [], steps


def _locked_base(loaded: Series) -> str:
    tree = targets.ensure(loaded)
    if tree != loaded.lock.base_tree:
        raise PatchError(
            f"lock.json says that {loaded.lock.upstream.commit} has the tree {loaded.lock.base_tree}, "
            f"but it has {tree}: restore lock.json with 'git checkout'."
        )
    return tree


def _applied(patch: patchset.Patch, tree: str) -> Step:
    after = gitdiff.apply_diff(store.open_store(), tree, patch.changes(), patch.files, patch.name)
    return Step(patch.name, patch.header, tree, after)


def on_commit(loaded: Series, commit: str, without: Sequence[str] = ()) -> list[Step]:
    """The patches as they stand on a commit of the store: the locked one, or another that each replays onto cleanly.

    ``without``: names of patches to leave out. Raises PatchError where one does not: that is for ``kvsplit-patch rebase``.
    """
    steps = [step for step in at_base(loaded) if step.name not in without]
    if commit == loaded.lock.upstream.commit and not without:
        return steps
    repo = store.open_store()
    base = store.tree_of(repo, commit)
    require_range(repo, steps, base, commit)
    moved = []
    for step, before, outcome in replay.onto(repo, steps, base, loaded.kept(base)):
        if outcome.state not in replay.DONE:
            why = "".join(f"; {path}: {reason}" for path, reason in outcome.conflicts[:1])
            raise PatchError(
                f"{step.name} does not replay onto {commit} ({outcome.state}{why}): run 'kvsplit-patch rebase {commit}'."
            )
        moved.append(Step(step.name, step.header, before, outcome.tree))
    return moved


def require_range(repo, steps: Sequence[Step], base: str, target: str) -> None:
    """Raises PatchError when the tree ``base`` of ``target`` lacks a file that a patch needs: it is out of range."""
    for step in steps:
        if missing := lacking(repo, step, base):
            raise PatchError(
                f"{target} is outside the range of the series: {step.name} needs {missing[0]}, which llama.cpp does not have "
                "there; name a later commit, or take the patch out of patchset/series and run 'kvsplit-patch export'."
            )


def lacking(repo, step: Step, base: str) -> list[str]:
    """The files that a patch needs and the tree ``base`` does not have."""
    return [path for path in step.header.needs if not store.entry_at(repo, base, path)]
