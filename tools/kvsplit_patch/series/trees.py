"""Which llama.cpp tree to build: the series on a commit, or that commit as upstream has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
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
        from ..upstream import sources

        return sources.materialize(self.tree)


def patched(target: str | None = None) -> Source:
    """The series on its base, or replayed onto ``target``: a tag, a commit, or a bindings version.

    Raises PatchError when a patch does not replay cleanly, or the target cannot be had.
    """
    from .. import paths
    from . import patchset, replay

    loaded = patchset.load(paths.patchset_dir())
    commit, tag = _commit(target)
    applied = replay.apply_series(commit)
    return Source(
        tree=applied.result_tree,
        commit=applied.commit,
        tag=tag,
        patches=tuple({"name": patch.name, "patch_id": patch.patch_id()} for patch in loaded.patches),
        changes_numerics=frozenset(cache for patch in loaded.patches for cache in patch.header.changes_numerics),
    )


def unpatched(target: str | None = None) -> Source:
    """The same commit without the series."""
    from ..upstream import store

    commit, tag = _commit(target)
    base = store.tree_of(store.open_store(), commit)
    return Source(tree=base, commit=commit, tag=tag)


def _commit(target: str | None) -> tuple[str, str | None]:
    from .. import paths
    from ..upstream import revisions
    from . import patchset

    lock = patchset.load(paths.patchset_dir()).lock
    if target is None:
        revisions.ensure(lock.upstream)
        return lock.upstream.commit, lock.upstream.tag
    return revisions.resolve(lock.upstream.url, target)
