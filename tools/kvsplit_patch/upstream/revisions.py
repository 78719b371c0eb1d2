"""llama.cpp's commits: fetched from its remote, or found by tag, id or llama-cpp-python version."""

import re

import click

from ..errors import NetworkError, PatchError
from . import remote, store, tags
from .sdist import fetch_sdist

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(url: str, what: str, expected: str | None = None) -> str:
    """Bring a tag, or a 40-hex commit, into the store without its history; its 40-hex id.

    ``expected``: the commit a lock file holds for that tag. A tag that names another commit than it did,
    there or in the store, is refused. Raises PatchError.
    """
    repo = store.open_store()
    is_commit = _COMMIT.fullmatch(what)
    if is_commit and store.find_commit(repo, what):
        return what
    if not is_commit and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", what):
        raise PatchError(f"{what!r} is neither a tag nor a 40-hex commit: give one of them.")
    reference = f"{store.REFS}/commit/{what}" if is_commit else tags.reference(what)
    doing = f"fetching {what} from {url}"
    try:
        heads = remote.heads(url, doing)
        source = what if is_commit else f"refs/tags/{what}"
        if is_commit:  # servers hand out the tips of their refs to anyone, other commits maybe not
            source = next((name for name, tip in heads.items() if tip == what and "^" not in name), what)
        elif source not in heads:
            raise PatchError(f"{url} has no tag {what}: look at its tags, or give a 40-hex commit.")
        click.echo(f"{doing} …", err=True)
        with remote.incoming(url, [source], 1, doing) as [commit]:
            if not commit:
                raise PatchError(f"{what} at {url} names no commit: give another tag.")
            known = expected or store.commit_at(repo, reference)
            if known and known != commit:
                raise tags.moved(url, what, known, commit)
            store.require_complete(repo, commit, url)
            repo.references.create(reference, commit, force=True)
    except NetworkError as failure:
        raise NetworkError(
            f"{failure.message.removesuffix(' later.')}, or use 'kvsplit-patch fetch --sdist'."
        ) from None
    return commit


def bindings_of(repo, commit: str) -> str | None:
    """The newest llama-cpp-python release, of those fetched, that vendors a commit."""
    prefix = f"{store.REFS}/sdist/"
    references = store.upstream_commits(repo).items()
    versions = [ref.removeprefix(prefix) for ref, named in references if ref.startswith(prefix) and named == commit]
    return max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], default=None)


def archive_of(repo, commit: str) -> str | None:
    """What an imported archive is called whose files a commit holds; None for upstream's own commit."""
    known = store.upstream_commits(repo).items()
    names = sorted(ref for ref, named in known if named == commit)
    prefix = f"{store.REFS}/archive/"
    return names[0].removeprefix(prefix) if names and all(name.startswith(prefix) for name in names) else None


def resolve(url: str, what: str) -> tuple[str, str | None]:
    """The 40-hex commit a person means, and its tag if they gave one; fetched if the store lacks it.

    ``what``: a tag, a 40-hex commit (or the start of one the store has), a llama-cpp-python version, or what an
    imported archive is called.
    """
    what = what.lower() if _COMMIT.fullmatch(what.lower()) else what
    repo = store.open_store()
    version = re.fullmatch(r"\d+\.\d+\.\w+", what)
    commit = store.find_commit(repo, what)
    if not commit:
        commit = fetch_sdist(what) if version else fetch(url, what)
    return commit, what if store.commit_at(store.open_store(), tags.reference(what)) == commit else None


def ensure(upstream) -> str:
    """The tree id of a lock's commit, fetched first if the store lacks it (from the sdist when the lock names one)."""
    if not store.find_commit(store.open_store(), upstream.commit):
        if upstream.archive:
            raise PatchError(
                f"The series stands on the files of {upstream.archive}, which were imported from an archive: run "
                f"'kvsplit-patch fetch --archive FILE --name {upstream.archive}' with that archive."
            )
        if upstream.bindings:
            commit = fetch_sdist(upstream.bindings)
        else:
            commit = fetch(upstream.url, upstream.tag or upstream.commit, upstream.commit)
        if commit != upstream.commit:
            raise PatchError(
                f"llama-cpp-python {upstream.bindings} vendors {commit}, but lock.json says {upstream.commit}: "
                "restore lock.json with 'git checkout'."
            )
    return store.tree_of(store.open_store(), upstream.commit)
