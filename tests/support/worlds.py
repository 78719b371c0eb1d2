"""Small upstreams and projects made with git itself, to try the companion on; no download, no llama.cpp."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pygit2
from click.testing import CliRunner

from kvsplit_patch.main import main
from kvsplit_patch.series import applying, dep3, folders, gitdiff, patchset
from kvsplit_patch.upstream import store

URL = "git://127.0.0.1:1/none.git"  # nothing listens there: a test that needs a remote makes one


@dataclass(frozen=True)
class World:
    """A project checkout and the 40-hex commits of its upstream, by name."""

    project: Path
    commits: dict

    @property
    def patchset(self) -> Path:
        return self.project / "patchset"

    def files(self) -> dict:
        return folders.read(self.patchset)

    def result(self) -> dict:
        """What the patched tree holds: path -> (mode, bytes)."""
        return tree_files(patchset.read_lock(self.patchset).result_tree)


def text(*lines) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def numbered(count=30, **changes) -> bytes:
    """A file of distinct lines; ``l5="x"`` changes line 5, ``l5=None`` removes it."""
    lines = {f"l{number}": f"line {number}" for number in range(1, count + 1)}
    lines.update(changes)
    return text(*(line for line in lines.values() if line is not None))


def make_tree(files: dict) -> str:
    """A tree in the store from path -> bytes, or (mode, bytes), or (0o160000, 40-hex commit)."""
    repo = store.open_store()
    index = pygit2.Index()
    for path, content in files.items():
        mode, data = content if isinstance(content, tuple) else (gitdiff.FILE, content)
        blob = data if mode == gitdiff.SUBMODULE else repo.create_blob(data)
        index.add(pygit2.IndexEntry(path, pygit2.Oid(hex=str(blob)), mode))
    return str(index.write_tree(repo))


def make_commit(files: dict, name: str) -> str:
    """An upstream commit in the store, as if it had been fetched as the tag ``name``."""
    repo = store.open_store()
    who = pygit2.Signature("upstream", "upstream@example.org", 1, 0)
    commit = str(repo.create_commit(None, who, who, name, pygit2.Oid(hex=make_tree(files)), []))
    repo.references.create(f"{store.REFS}/upstream/{name}", commit, force=True)
    return commit


def tree_files(tree: str) -> dict:
    repo = store.open_store()
    return {
        path: (mode, blob if mode == gitdiff.SUBMODULE else store.read_blob(repo, blob))
        for path, mode, blob in store.entries(repo, tree)
    }


def header(name: str, **changes) -> dep3.Header:
    fields = {"description": f"{name}: what it does", "author": "A Person <person@example.org>"}
    return dep3.Header(**{**fields, "forwarded": "no", "last_update": "2026-10-01", **changes})


def make_world(folder: Path, upstream: dict, patches: dict, url=URL, **headers) -> World:
    """A project whose series stands on ``upstream["base"]``.

    ``upstream``: commit name -> files. ``patches``: name -> {path: content, or None to delete}.
    ``headers``: patch name -> fields of its header.
    """
    repo = store.open_store()
    commits = {name: make_commit(files, name) for name, files in upstream.items()}
    files, tree = dict(upstream["base"]), make_tree(upstream["base"])
    base, steps = tree, []
    for name, changes in patches.items():
        files = {path: content for path, content in {**files, **changes}.items() if content is not None}
        after = make_tree(files)
        steps.append(patchset.Step(name, header(name, **headers.get(name, {})), tree, after))
        tree = after
    pygit2.init_repository(str(folder))
    where = patchset.Upstream(url, commits["base"], "base")
    folders.write(folder / "patchset", patchset.export(repo, "1", where, base, steps))
    os.environ["KVSPLIT_CHECKOUT"] = str(folder)  # the fixture puts it back
    return World(folder, commits)


def run(*arguments, code=0) -> str:
    """Run ``kvsplit-patch`` and give back all it printed; a traceback fails, and so does another exit code (None: any)."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert code is None or done.exit_code == code, done.output
    return done.output


def series_on(commit: str | None = None) -> list[patchset.Step]:
    """The checkout's series, as it stands on a commit of the store; on its own without one."""
    loaded = patchset.load()
    return applying.on_commit(loaded, commit or loaded.lock.upstream.commit)


def work_folder(world: World) -> Path:
    """Where the stopped patch is laid out."""
    from kvsplit_patch.series import journal

    return Path(journal.read(world.project).work)


def git(folder, *arguments) -> str:
    """Run git in a folder as nobody in particular; what it printed."""
    who = [
        "-c",
        "user.name=up",
        "-c",
        "user.email=up@example.org",
        "-c",
        "tag.gpgSign=false",
        "-c",
        "commit.gpgSign=false",
    ]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def drop(project, name):
    """Take a patch out of the checkout's series, the way a maintainer does."""
    names = project / "patchset" / "series"
    names.write_text("".join(line for line in names.read_text().splitlines(True) if line != f"{name}.patch\n"))
    (project / "patchset" / f"{name}.patch").unlink()
    for resolution in (project / "patchset" / "resolutions").glob(f"*/{name}.diff"):
        resolution.unlink()
    run("export")
