"""What an upstream remote offers: its tags in order, many of them at once, and the commits between two.

llama.cpp tags most commits of its master ``b<number of commits>``, and some as SemVer releases ``v1.2.3`` as well.
RemoteTags needs no token and no API.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..echo import Echo
from ..errors import PatchError
from . import remote, store

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
class RemoteTags:
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


def listing(url: str) -> RemoteTags:
    """Ask the remote for its tags. Raises NetworkError when it does not answer."""
    commits: dict[str, str] = {}
    for reference, commit in remote.heads(url, f"listing the tags of {url}").items():
        name, peeled, _ = reference.partition("^{}")
        if name.startswith("refs/tags/") and (peeled or name not in commits):
            commits[name.removeprefix("refs/tags/")] = commit
    named = [Tag(name, commit) for name, commit in commits.items()]
    builds = sorted((tag for tag in named if tag.number is not None), key=lambda tag: tag.number or 0)
    versions = [tag for tag in named if re.fullmatch(r"v\d+\.\d+\.\d+", tag.name)]
    versions.sort(key=lambda tag: [int(part) for part in tag.name[1:].split(".")])
    return RemoteTags(url, tuple(builds), tuple(versions))


def fetch(url: str, wanted: Sequence[Tag], echo: Echo) -> None:
    """Bring many tags' commits into the store, without their history and in few requests.

    Raises PatchError for a tag that has moved since it was first fetched, NetworkError when the remote fails.
    """
    repo = store.open_store()
    missing = []
    for tag in wanted:
        known = store.commit_at(repo, reference(tag.name))
        if not known:
            missing.append(tag)
        elif known != tag.commit:
            raise moved(url, tag.name, known, tag.commit)
    checked = store.objects_known(repo) if missing else set()
    for start in range(0, len(missing), _AT_ONCE):
        part = missing[start : start + _AT_ONCE]
        names = f"{part[0].name}{f' … {part[-1].name}' if len(part) > 1 else ''}"
        doing = f"fetching {names} from {url}"
        echo(f"{doing} …")
        with remote.incoming(url, [f"refs/tags/{tag.name}" for tag in part], 1, doing) as commits:
            repo = store.open_store()
            for tag, commit in zip(part, commits):
                if commit != tag.commit:
                    raise moved(url, tag.name, tag.commit, commit or "nothing")
                store.require_complete(repo, commit, url, checked)
                repo.references.create(reference(tag.name), commit, force=True)


def reference(name: str) -> str:
    """Where the store keeps the commit that a tag named when it was first fetched."""
    return f"{store.REFS}/upstream/{name}"


def moved(url: str, name: str, known: str, commit: str) -> PatchError:
    return PatchError(
        f"The tag {name} at {url} has moved from {known} to {commit}: "
        "find out why, and give the 40-hex commit you trust instead."
    )


def commits_between(url: str, good: Tag, bad: Tag, echo: Echo) -> list[str] | None:
    """Every commit after ``good`` up to ``bad``, oldest first, or None where the remote has no such history.

    Only the commits between are fetched: ``b`` tags say how many they are.
    """
    if good.number is None or bad.number is None:
        return None
    doing = f"fetching the commits between {good.name} and {bad.name} from {url}"
    echo(f"{doing} …")
    with remote.incoming(url, [f"refs/tags/{bad.name}"], bad.number - good.number + 1, doing):
        pass
    repo = store.open_store()  # anew: what was known of a commit's parents is out of date
    commits, commit = [], bad.commit
    while commit != good.commit:
        commits.append(commit)
        parents = repo[commit].parent_ids if commit in repo else []
        if not parents:
            return None
        commit = str(parents[0])  # the first: what master was before
    return commits[::-1]


def keep(commit: str, checked: set) -> None:
    """Let a commit that came as part of a history count as fetched, so that any command takes its id.

    ``checked``: see ``store.require_complete``.
    """
    repo = store.open_store()
    store.require_complete(repo, commit, "the store", checked)
    repo.references.create(f"{store.REFS}/commit/{commit}", commit, force=True)
