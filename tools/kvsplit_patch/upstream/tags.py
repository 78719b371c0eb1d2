"""What an upstream remote offers: its tags in order, many of them at once, and the commits between two.

llama.cpp tags most commits of its master ``b<number of commits>``, and some as SemVer releases ``v1.2.3`` as well.
Listing needs no token and no API.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..echo import Echo
from ..errors import NetworkError, PatchError
from . import store

#: Tags asked for in one request: a server compares them all with what is here, which more of them make slow.
_AT_ONCE = 100


@dataclass(frozen=True)
class Tag:
    name: str
    #: 40 hex digits; of an annotated tag, the commit it is on.
    commit: str

    @property
    def number(self) -> int | None:
        """How many commits lead up to it, from a ``b`` tag's name."""
        return int(self.name[1:]) if re.fullmatch(r"b\d+", self.name) else None


@dataclass(frozen=True)
class Listing:
    """The tags of a remote, oldest first: ``b<number>``, and SemVer's."""

    url: str
    builds: tuple[Tag, ...]
    versions: tuple[Tag, ...]

    def find(self, name: str) -> Tag:
        """A tag by its name, or the ``b`` tag of a 40-hex commit. Raises PatchError."""
        for tag in (*self.builds, *self.versions):
            if name in (tag.name, tag.commit):
                return tag
        raise PatchError(
            f"{self.url} has no tag {name}: its newest is {self.builds[-1].name if self.builds else 'none'}."
        )

    def at(self, commit: str) -> Tag | None:
        """The ``b`` tag on a commit."""
        return next((tag for tag in self.builds if tag.commit == commit), None)

    def between(self, first: Tag, last: Tag) -> tuple[Tag, ...]:
        """Both and every tag of their line between them. Raises PatchError if they are not in this order."""
        line = self.builds if first in self.builds else self.versions
        if last not in line or line.index(last) < line.index(first):
            raise PatchError(f"{first.name} does not come before {last.name} in one line of tags: name two that do.")
        return line[line.index(first) : line.index(last) + 1]


def listing(url: str) -> Listing:
    """Ask the remote for its tags. Raises NetworkError when it does not answer."""
    import pygit2

    repo = store.open_store()
    try:
        heads = repo.remotes.create_anonymous(url).list_heads(proxy=True)
    except pygit2.GitError as failure:
        raise NetworkError(f"The tags of {url} cannot be listed: {store.sentence(failure)}; try again later.") from None
    commits = {}
    for head in heads:
        name, peeled, _ = head.name.partition("^{}")
        if name.startswith("refs/tags/") and (peeled or name not in commits):
            commits[name.removeprefix("refs/tags/")] = str(head.oid)
    named = [Tag(name, commit) for name, commit in commits.items()]
    builds = sorted((tag for tag in named if tag.number is not None), key=lambda tag: tag.number)
    versions = [tag for tag in named if re.fullmatch(r"v\d+\.\d+\.\d+", tag.name)]
    versions.sort(key=lambda tag: [int(part) for part in tag.name[1:].split(".")])
    return Listing(url, tuple(builds), tuple(versions))


def fetch(url: str, wanted: Sequence[Tag], echo: Echo) -> None:
    """Bring many tags' commits into the store, without their history and in few requests.

    Raises PatchError for a tag that has moved since it was first seen, NetworkError when the remote fails.
    """
    repo = store.open_store()
    missing = []
    for tag in wanted:
        known = known_commit(repo, tag.name)
        if known and known != tag.commit:
            raise PatchError(moved(url, tag, known))
        if not known:
            missing.append(tag)
    seen = store.objects_known(repo) if missing else set()
    for start in range(0, len(missing), _AT_ONCE):
        part = missing[start : start + _AT_ONCE]
        echo(f"fetching {part[0].name}{f' … {part[-1].name}' if len(part) > 1 else ''} from {url} …")
        with store.writing():
            _fetch_part(url, part, seen)


def _fetch_part(url: str, part: Sequence[Tag], seen: set) -> None:
    import pygit2

    repo = store.open_store()
    incoming = f"{store.REFS}/incoming/{os.getpid()}"
    try:
        specs = [f"+refs/tags/{tag.name}:{incoming}/{tag.name}" for tag in part]
        repo.remotes.create_anonymous(url).fetch(specs, depth=1, proxy=True)
        for tag in part:
            commit = str(repo.references[f"{incoming}/{tag.name}"].peel(pygit2.Commit).id)
            if commit != tag.commit:
                raise PatchError(moved(url, Tag(tag.name, commit), tag.commit))
            store.require_complete(repo, commit, url, seen)
            repo.references.create(f"{store.REFS}/upstream/{tag.name}", commit, force=True)
    except (pygit2.GitError, KeyError) as failure:
        raise NetworkError(f"Fetching tags from {url} failed: {store.sentence(failure)}; try again later.") from None
    finally:
        for tag in part:
            if f"{incoming}/{tag.name}" in repo.references:
                repo.references.delete(f"{incoming}/{tag.name}")


def known_commit(repo, name: str) -> str | None:
    """The commit that a tag named when it was first fetched."""
    import pygit2

    ref = f"{store.REFS}/upstream/{name}"
    return str(repo.references[ref].peel(pygit2.Commit).id) if ref in repo.references else None


def moved(url: str, tag: Tag, known: str) -> str:
    return (
        f"The tag {tag.name} at {url} has moved from {known} to {tag.commit}: "
        "find out why, and give the 40-hex commit you trust instead."
    )


def commits_between(url: str, good: Tag, bad: Tag, echo: Echo) -> list[str] | None:
    """Every commit after ``good`` up to ``bad``, oldest first, or None where the remote has no such history.

    Only the commits between are fetched: ``b`` tags say how many they are.
    """
    import pygit2

    if good.number is None or bad.number is None:
        return None
    repo = store.open_store()
    incoming = f"{store.REFS}/incoming/{os.getpid()}"
    with store.writing():
        try:
            echo(f"fetching the commits between {good.name} and {bad.name} from {url} …")
            depth = bad.number - good.number + 1
            repo.remotes.create_anonymous(url).fetch([f"+refs/tags/{bad.name}:{incoming}"], depth=depth, proxy=True)
            repo = store.open_store()  # anew: what was known of a commit's parents is out of date
            commit = repo.references[incoming].peel(pygit2.Commit)
        except pygit2.GitError as failure:
            raise NetworkError(
                f"The commits between {good.name} and {bad.name} cannot be fetched from {url}: "
                f"{store.sentence(failure)}; try again later."
            ) from None
        finally:
            if incoming in repo.references:
                repo.references.delete(incoming)
    found = []
    while str(commit.id) != good.commit:
        found.append(str(commit.id))
        parents = commit.parent_ids
        if not parents or parents[0] not in repo:
            return None
        commit = repo[parents[0]]  # the first: what master was before
    return found[::-1]


def keep(commit: str, seen: set) -> None:
    """Let a commit that came as part of a history count as fetched, so that any command takes its id.

    ``seen``: see ``store.require_complete``.
    """
    repo = store.open_store()
    store.require_complete(repo, commit, "the store", seen)
    repo.references.create(f"{store.REFS}/commit/{commit}", commit, force=True)
