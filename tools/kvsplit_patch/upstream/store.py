"""The one bare git repository of upstream objects, and small helpers over its trees.

Objects are content-addressed, so any number of checkouts and processes share the store; only what
changes packs or refs (fetching) takes the lock. Everything here is written for libgit2: no work tree,
no user configuration, no attributes, so that the same input gives the same objects on any machine.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import PatchError
from ..paths import store_dir

REFS = "refs/kvsplit"


def isolate() -> None:
    """Make libgit2 forget the user's and the system's git configuration and attribute files, for this process."""
    import pygit2
    from pygit2.enums import ConfigLevel

    for level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        pygit2.settings.search_path[level] = ""
    pygit2.settings.server_connect_timeout = 30_000  # ms; libgit2 would wait for ever
    pygit2.settings.server_timeout = 120_000


@contextmanager
def writing() -> Iterator[None]:
    """Hold the store's lock: for fetching and importing packs, never needed to write single objects."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(str(store_dir()) + ".lock", timeout=900):
            yield
    except Timeout:
        raise PatchError(
            f"Another process has been fetching into {store_dir()} for 15 minutes: end it, then try again."
        ) from None


def open_store():
    """The store as a ``pygit2.Repository``, made on first use."""
    import pygit2

    isolate()
    folder = store_dir()
    try:
        return pygit2.Repository(str(folder))
    except pygit2.GitError:
        pass
    with writing():
        repo = pygit2.init_repository(str(folder), bare=True)
        repo.config["gc.auto"] = 0  # the trees of an unfinished rebase are not always reachable from a ref
        return repo


def commit_at(repo, reference: str) -> str | None:
    """The 40-hex commit that a reference of the store names; None where there is none."""
    import pygit2

    try:
        return str(repo.references[reference].peel(pygit2.Commit).id)
    except (KeyError, pygit2.InvalidSpecError):
        return None


def tree_of(repo, commit: str) -> str:
    """The 40-hex tree of a commit. Raises PatchError where the store lacks it."""
    import pygit2

    if commit not in repo:
        raise PatchError(f"The store lacks the commit {commit}: run 'kvsplit-patch fetch {commit}'.")
    return str(repo[commit].peel(pygit2.Tree).id)


def upstream_commits(repo) -> dict[str, str]:
    """What was fetched in full: reference -> commit."""
    kinds = tuple(f"{REFS}/{kind}/" for kind in ("upstream", "sdist", "commit", "archive"))
    return {ref: commit for ref in repo.references if ref.startswith(kinds) and (commit := commit_at(repo, ref))}


def find_commit(repo, name: str) -> str | None:
    """The 40-hex id of a commit the store has in full; else None.

    ``name``: a tag, an sdist's version, what an imported archive is called, a 40-hex id or a unique prefix of one.
    """
    known = upstream_commits(repo)
    for kind in ("upstream", "sdist", "commit", "archive"):
        if commit := known.get(f"{REFS}/{kind}/{name}"):
            return commit
    matches = [commit for commit in {*known.values()} if len(name) >= 7 and commit.startswith(name.lower())]
    return matches[0] if len(matches) == 1 else None


def subject(repo, commit: str) -> str:
    """The first line of a commit's message; empty where the store lacks the commit."""
    import pygit2

    return repo[commit].peel(pygit2.Commit).message.partition("\n")[0] if commit in repo else ""


def entries(repo, tree: str, prefix: str = "", passed: set | None = None) -> Iterator[tuple[str, int, str]]:
    """Every blob, link and submodule below a tree as (path, mode, 40-hex id), in git's order.

    ``passed``: a set of folders' ids to pass over, and to add to; for walking many trees that share most.
    Raises PatchError on names that would lead out of a folder the tree is written to.
    """
    from pygit2.enums import FileMode

    names: set[str] = set()
    for entry in repo[str(tree)]:
        if entry.name in {"", ".", "..", *names} or "/" in entry.name or entry.name.lower() == ".git":
            raise PatchError(f"The upstream tree {tree} holds the name {entry.name!r}: do not use this source.")
        names.add(entry.name)
        path = prefix + entry.name
        if entry.filemode == FileMode.TREE:
            if passed is not None:
                if entry.id in passed:
                    continue
                passed.add(entry.id)
            yield from entries(repo, str(entry.id), path + "/", passed)
        else:
            yield path, int(entry.filemode), str(entry.id)


def tree_with(repo, tree: str | None, changes: Mapping[str, tuple[int, Any] | None]) -> str:
    """``tree`` with ``{path: (mode, blob id) or None to delete}`` applied; the new tree's 40-hex id.

    Only the folders on the way to a change are written: an index of all files would take ten times as long.
    """
    import pygit2

    old = repo[str(tree)] if tree else None
    builder = repo.TreeBuilder(old) if old else repo.TreeBuilder()
    below: dict[str, dict] = {}
    for path, change in changes.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = change
        elif change is None:
            builder.remove(name)
        else:
            mode, blob = change
            builder.insert(name, pygit2.Oid(hex=str(blob)), mode)
    for name, inside in below.items():
        entry = builder.get(name)
        made = tree_with(
            repo, str(entry.id) if entry and entry.filemode == pygit2.enums.FileMode.TREE else None, inside
        )
        if len(repo[made]):
            builder.insert(name, pygit2.Oid(hex=made), pygit2.enums.FileMode.TREE)
        elif entry:
            builder.remove(name)  # git has no empty folders
    return str(builder.write())


def entry_at(repo, tree: str, path: str) -> tuple[int, str] | None:
    """(mode, 40-hex id) of what a tree holds at a path, or None."""
    try:
        entry = repo[str(tree)][path]
    except KeyError:
        return None
    return int(entry.filemode), str(entry.id)


def read_blob(repo, blob: Any) -> bytes:
    return repo[str(blob)].data


def require_complete(repo, commit: str, source: str, checked: set | None = None) -> None:
    """Read every object of a commit's tree; libgit2 compares each with its id as it does.

    ``checked``: ids that were read before, to pass over and to add to.
    """
    import pygit2

    checked = set() if checked is None else checked
    try:
        for _, mode, blob in entries(repo, tree_of(repo, commit), passed=checked):
            if mode != 0o160000 and blob not in checked:
                repo.read(blob)
                checked.add(blob)
    except (KeyError, pygit2.GitError, ValueError) as failure:
        raise PatchError(
            f"The objects of {commit} in {source} are incomplete ({sentence(failure)}): fetch it again."
        ) from None


def objects_known(repo) -> set:
    """The ids in the trees of all upstream commits that were fetched and are complete; for ``checked`` above."""
    checked: set = set()
    for commit in upstream_commits(repo).values():
        checked |= {blob for _, _, blob in entries(repo, tree_of(repo, commit), passed=checked)}
    return checked


def sentence(failure: Exception) -> str:
    """What libgit2 says, to go inside a sentence of ours."""
    return str(failure).strip().rstrip(".").splitlines()[0]
