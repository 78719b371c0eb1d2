"""llama.cpp's commits: fetched from its remote, or found by tag, id or llama-cpp-python version."""

import os
import re

import click

from ..errors import NetworkError, PatchError
from . import store
from .sdist import fetch_sdist

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(url: str, what: str, expected: str | None = None) -> str:
    """Bring a tag, or a 40-hex commit, into the store without its history; its 40-hex id.

    ``expected``: the commit a lock file holds for that tag. A tag that names another commit than it did,
    there or in the store, is refused. Raises PatchError.
    """
    import pygit2

    repo = store.open_store()
    if _COMMIT.fullmatch(what):
        if store.find_commit(repo, what):
            return what
        source, ref = what, f"{store.REFS}/commit/{what}"
    elif re.fullmatch(r"[A-Za-z0-9][\w.+-]*", what):
        source, ref = f"refs/tags/{what}", f"{store.REFS}/upstream/{what}"
    else:
        raise PatchError(f"{what!r} is neither a tag nor a 40-hex commit: give one of them.")
    remote = repo.remotes.create_anonymous(url)
    incoming = f"{store.REFS}/incoming/{os.getpid()}"
    with store.writing():
        try:
            heads = {head.name: str(head.oid) for head in remote.list_heads(proxy=True)}
            if source == what:  # servers hand out the tips of their refs to anyone, other commits maybe not
                source = next((name for name, tip in heads.items() if tip == what and "^" not in name), what)
            elif source not in heads:
                raise PatchError(f"{url} has no tag {what}: look at its tags, or give a 40-hex commit.")
            click.echo(f"fetching {what} from {url} …", err=True)
            remote.fetch([f"+{source}:{incoming}"], depth=1, proxy=True)
        except pygit2.GitError as failure:
            raise NetworkError(
                f"Fetching {what} from {url} failed: {store.sentence(failure)}; try again, or use --sdist."
            ) from None
        try:
            commit = str(repo.references[incoming].peel(pygit2.Commit).id)
        except (KeyError, pygit2.InvalidSpecError):
            raise PatchError(f"{what} at {url} names no commit: give another tag.") from None
        finally:
            if incoming in repo.references:
                repo.references.delete(incoming)
        known = expected or (str(repo.references[ref].peel(pygit2.Commit).id) if ref in repo.references else None)
        if known and known != commit:
            raise PatchError(
                f"The tag {what} at {url} has moved from {known} to {commit}: "
                "find out why, and give the 40-hex commit you trust instead."
            )
        store.require_complete(repo, commit, url)
        repo.references.create(ref, commit, force=True)
    return commit


def bindings_of(repo, commit: str) -> str | None:
    """The newest llama-cpp-python release, of those fetched, that vendors a commit."""
    import pygit2

    prefix = f"{store.REFS}/sdist/"
    versions = [
        ref.removeprefix(prefix)
        for ref in repo.references
        if ref.startswith(prefix) and str(repo.references[ref].peel(pygit2.Commit).id) == commit
    ]
    return max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], default=None)


def resolve(url: str, what: str) -> tuple[str, str | None]:
    """The 40-hex commit a person means, and its tag if they gave one; fetched if the store lacks it.

    ``what``: a tag, a 40-hex commit (or the start of one the store has), or a llama-cpp-python version.
    """
    what = what.lower() if _COMMIT.fullmatch(what.lower()) else what
    repo = store.open_store()
    version = re.fullmatch(r"\d+\.\d+\.\w+", what)
    commit = store.find_commit(repo, what)
    if not commit:
        commit = fetch_sdist(what) if version else fetch(url, what)
    is_tag = not version and not commit.startswith(what.lower())
    return commit, what if is_tag else None


def ensure(upstream) -> str:
    """The tree id of a lock's commit, fetched first if the store lacks it (from the sdist when the lock names one)."""
    import pygit2

    repo = store.open_store()
    if not store.find_commit(repo, upstream.commit):
        if upstream.bindings:
            commit = fetch_sdist(upstream.bindings)
        else:
            commit = fetch(upstream.url, upstream.tag or upstream.commit, upstream.commit)
        if commit != upstream.commit:
            raise PatchError(
                f"llama-cpp-python {upstream.bindings} vendors {commit}, but lock.json says {upstream.commit}: "
                "restore lock.json with git checkout."
            )
        repo = store.open_store()
    return str(repo[upstream.commit].peel(pygit2.Tree).id)
