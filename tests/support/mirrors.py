"""A local upstream made of real snapshots: commits planted on the llama.cpp that a release vendors, served as tags.

A release carries one commit and not what came before it, and libgit2 does not list a shallow remote. So the snapshot's
tree gets a commit of its own, the first of a history, and the checkout's lock names that one.
"""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pygit2

from kvsplit_patch import paths, series, store

from .daemon import serving

#: The number of the first tag.
FIRST = 9000


@dataclass(frozen=True)
class Mirror:
    """A bare repository with a chain of commits, each tagged ``b<number>``; the first has a real one's tree."""

    url: str
    folder: Path
    #: 40 hex digits, oldest first.
    commits: tuple[str, ...]

    @property
    def tags(self) -> list[str]:
        return [f"b{FIRST + at}" for at in range(len(self.commits))]

    def add(self, subject: str, change) -> "Mirror":
        """The mirror with one more commit and its tag; see ``serve``."""
        repo = pygit2.Repository(str(self.folder))
        commit = _commit(repo, [self.commits[-1]], subject, change)
        repo.references.create(f"refs/tags/b{FIRST + len(self.commits)}", commit)
        return replace(self, commits=(*self.commits, commit))


def docs(number: int) -> tuple[str, dict]:
    """A commit that changes nothing that is compiled, as many of upstream's do."""
    return f"docs : note {number}", {"docs/build.md": lambda text: f"{text}\nNote {number}.\n"}


def edit(path: str, *pairs: tuple[str, str]) -> dict:
    """Edits for ``serve``: in one file, replace each text that stands there once."""

    def change(text: str) -> str:
        for old, new in pairs:
            assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        return text

    return {path: change}


@contextmanager
def serve(folder: Path, root: str, commits, history: bool = True):
    """Serve a chain: the tree of ``root``, a commit of the store, then ``commits``.

    Each is (subject, {path: function of its text}), or (subject, commit of the store) to have that one's tree.
    Without ``history`` no commit has a parent.
    """
    repo = pygit2.init_repository(str(folder / "llama.cpp"), bare=True)
    (Path(repo.path) / "objects/info/alternates").write_text(f"{store.store_dir()}/objects\n")
    # As GitHub does.
    repo.config["uploadpack.allowReachableSHA1InWant"] = True
    repo = pygit2.Repository(repo.path)
    made: list[str] = []
    for subject, change in (("the release", root), *commits):
        made.append(_commit(repo, made[-1:], subject, change, history))
    for at, commit in enumerate(made):
        repo.references.create(f"refs/tags/b{FIRST + at}", commit)
    repo.references.create("refs/heads/master", made[-1])
    with serving(folder) as address:
        yield Mirror(f"{address}/llama.cpp", Path(repo.path), tuple(made))


def _commit(repo, before: list[str], subject: str, change, history: bool = True) -> str:
    if isinstance(change, str):
        tree = str(repo[change].peel(pygit2.Tree).id)
    else:
        tree = str(repo[before[0]].peel(pygit2.Tree).id)
        entries = {path: store.entry_at(repo, tree, path) for path in change}
        texts = {path: edit(repo[entries[path][1]].data.decode()) for path, edit in change.items()}
        tree = store.tree_with(repo, tree, {p: (entries[p][0], repo.create_blob(t.encode())) for p, t in texts.items()})
    who = pygit2.Signature("upstream", "upstream@example.org", 1_800_000_000, 0)
    return str(repo.create_commit(None, who, who, f"{subject}\n", pygit2.Oid(hex=tree), before if history else []))


def own_store(folder: Path, monkeypatch) -> None:
    """A cache whose store is the test's own, so that planted tags reach nobody's, and whose builds are everyone's."""
    ordinary, cache = paths.cache_dir(), folder / "cache"
    cache.mkdir()
    for name in ("build", "ccache", "sdists", "sources", "tools"):
        (ordinary / name).mkdir(exist_ok=True)
        (cache / name).symlink_to(ordinary / name)
    theirs = store.open_store()
    sdists = {ref: str(theirs.references[ref].target) for ref in theirs.references if "/sdist/" in ref}
    shallow = (Path(theirs.path) / "shallow").read_bytes()
    objects = Path(theirs.path) / "objects"
    monkeypatch.setenv("KVSPLIT_CACHE", str(cache))
    ours = store.open_store()
    (Path(ours.path) / "objects/info/alternates").write_text(f"{objects}\n")
    (Path(ours.path) / "shallow").write_bytes(shallow)
    ours = pygit2.Repository(ours.path)
    for ref, commit in sdists.items():
        ours.references.create(ref, commit)


def checkout(folder: Path, mirror: Mirror, monkeypatch) -> Path:
    """A git checkout of the project's series, standing on the mirror's first tag."""
    folder.mkdir()
    shutil.copytree(paths.patchset_dir(), folder / "patchset")
    lock = replace(
        series.read_lock(folder / "patchset"), upstream=series.Upstream(mirror.url, mirror.commits[0], "b9000")
    )
    (folder / "patchset" / "lock.json").write_bytes(series.write_lock(lock))
    repo = pygit2.init_repository(str(folder), initial_head="main")
    repo.index.add_all()
    repo.index.write()
    who = pygit2.Signature("maintainer", "maintainer@example.org", 1_800_000_000, 0)
    repo.create_commit("refs/heads/main", who, who, "The series\n", repo.index.write_tree(), [])
    monkeypatch.setenv("KVSPLIT_CHECKOUT", str(folder))
    return folder
