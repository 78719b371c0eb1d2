"""Talking to upstream's git server: what its references name, and bringing some of them into the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import NetworkError
from . import store


def heads(url: str, doing: str) -> dict[str, str]:
    """What each reference of a remote names, 40 hex digits; an annotated tag's commit is at ``NAME^{}``.

    Raises NetworkError, naming what it was ``doing``, when it does not answer.
    """
    import pygit2

    repo = store.open_store()
    try:
        return {head.name: str(head.oid) for head in repo.remotes.create_anonymous(url).list_heads(proxy=True)}
    except pygit2.GitError as failure:
        raise _failed(doing, failure) from None


@contextmanager
def incoming(url: str, sources: Sequence[str], depth: int, doing: str) -> Iterator[list[str | None]]:
    """Fetch references or commits of a remote, each with ``depth`` commits of its history.

    Yields the commit that each source names, None for one that names none. Only then may they be given a reference
    of their own: those that brought them are gone afterwards. Holds the store's lock.
    Raises NetworkError, naming what it was ``doing``, when the remote fails.
    """
    import pygit2

    repo = store.open_store()
    prefix = f"{store.REFS}/incoming/{os.getpid()}"
    names = {source: f"{prefix}/{number}" for number, source in enumerate(sources)}
    with store.writing():
        try:
            specs = [f"+{source}:{name}" for source, name in names.items()]
            repo.remotes.create_anonymous(url).fetch(specs, depth=depth, proxy=True)
            yield [store.commit_at(repo, name) for name in names.values()]
        except pygit2.GitError as failure:
            raise _failed(doing, failure) from None
        finally:
            for name in filter(repo.references.__contains__, names.values()):
                repo.references.delete(name)


def _failed(doing: str, failure: Exception) -> NetworkError:
    """``doing``: "fetching b1 from git://…", as it was announced."""
    if "invalid packet line" in str(failure):  # libgit2's words for the "shallow" lines that such a server sends
        return NetworkError(
            f"{doing[0].upper()}{doing[1:]} failed: that repository is a shallow clone, which libgit2 cannot fetch from; "
            "run 'git fetch --unshallow' in it."
        )
    return NetworkError(f"{doing[0].upper()}{doing[1:]} failed: {store.sentence(failure)}; try again later.")
