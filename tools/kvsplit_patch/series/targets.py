"""The commit that a person names as a target, wherever its files are to be had."""

from __future__ import annotations

from ..errors import PatchError
from ..upstream import revisions, store
from ..upstream.archive import fetch_package
from .patchset import Series


def resolve(loaded: Series, what: str, url: str | None = None) -> tuple[str, str | None]:
    """``revisions.resolve``, from the lock's remote if ``url`` is not given.

    Files that a kept resolution knows an sdist of are fetched from there. Raises PatchError.
    """
    _fetch_known(loaded, what, what)
    return revisions.resolve(url or loaded.lock.upstream.url, what)


def ensure(loaded: Series) -> str:
    """``revisions.ensure`` for the commit that the series stands on, with the same help. Raises PatchError."""
    upstream = loaded.lock.upstream
    if upstream.archive:
        _fetch_known(loaded, upstream.archive, upstream.commit)
    return revisions.ensure(upstream)


def _fetch_known(loaded: Series, target: str, commit: str) -> None:
    """Import the sdist that a resolution names for a target, where the store lacks the commit."""
    for each in loaded.resolutions:
        if each.target == target and each.archive and not store.find_commit(store.open_store(), commit):
            came = fetch_package(each.archive, target)
            if store.tree_of(store.open_store(), came) != each.tree:
                raise PatchError(
                    f"{each.archive} holds other files than patchset/{each.path} was kept for: remove that, and resolve anew."
                )
