"""Which llama.cpp tree to build: the series on a commit, or that commit as upstream has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..upstream import source_folders, store
from . import applying, patchset, targets


@dataclass(frozen=True)
class SourceTree:
    """A llama.cpp tree, and where it comes from."""

    #: git's id of the tree.
    tree: str
    #: The upstream commit under the patches, 40 hex digits.
    commit: str
    tag: str | None = None
    #: ``{"name": …, "patch_id": …}`` of each patch in the tree, in order; empty for upstream's own tree.
    patches: tuple[dict[str, str], ...] = ()
    #: The caches (``f16``, ``K8V4``, …, or ``all``) whose results a patch says it changes.
    changes_numerics: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """Its files on disk, read-only; laid out when first asked for."""
        return source_folders.materialize(self.tree)


def patched(target: str | None = None, without: Sequence[str] = ()) -> SourceTree:
    """The series on its base, or replayed onto ``target``: a tag, a commit, or a bindings version.

    ``without``: names of patches to leave out. Raises PatchError when a patch does not replay cleanly, or the target
    cannot be had.
    """
    loaded = patchset.load()
    plain = unpatched(target)
    steps = applying.on_commit(loaded, plain.commit, without)
    patches = [patch for patch in loaded.patches if patch.name not in without]
    return replace(
        plain,
        tree=steps[-1].after if steps else plain.tree,
        patches=tuple({"name": patch.name, "patch_id": patch.patch_id()} for patch in patches),
        changes_numerics=frozenset(cache for patch in patches for cache in patch.header.changes_numerics),
    )


def exact(target: str | None = None) -> SourceTree | None:
    """The series without the patches that say they change every result, and without what stands on them.

    That is what changes files that they bring, what says so (Stands-On), and what cannot be applied without them.
    None where there is no such patch.
    """
    loaded = patchset.load()
    without: list[str] = []
    theirs: set[str] = set()
    for patch in loaded.patches:
        stands = not theirs.isdisjoint(patch.touched()) or not set(without).isdisjoint(patch.header.stands_on)
        if "all" in patch.header.changes_numerics or stands:
            without.append(patch.name)
            theirs |= patch.files.keys()
    if not without:
        return None
    targets.ensure(loaded)
    steps = [step for step in applying.at_base(loaded) if step.name not in without]
    return patched(target, without + applying.stopping(loaded, steps))


def through(name: str) -> SourceTree:
    """The series up to the patch ``name``, on its base. Raises PatchError where there is no such patch."""
    loaded = patchset.load()
    return patched(without=loaded.names()[loaded.index(name) + 1 :])


def unpatched(target: str | None = None) -> SourceTree:
    """The same commit without the series."""
    loaded = patchset.load()
    if target is None:
        lock = loaded.lock.upstream
        return SourceTree(targets.ensure(loaded), lock.commit, lock.tag)
    commit, tag = targets.resolve(loaded, target)
    return SourceTree(store.tree_of(store.open_store(), commit), commit, tag)
