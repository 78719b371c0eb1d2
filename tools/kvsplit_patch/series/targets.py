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
    repo = store.open_store()
    for each in loaded.resolutions:
        if each.target == what and each.archive and not store.find_commit(repo, what):
            commit = fetch_package(each.archive, what)
            if store.tree_of(repo, commit) != each.tree:
                raise PatchError(
                    f"{each.archive} holds other files than patchset/{each.path} was kept for: remove that, and resolve anew."
                )
    return revisions.resolve(url or loaded.lock.upstream.url, what)
