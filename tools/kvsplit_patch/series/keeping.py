"""Taking the series that stands on another upstream back to where the last commit has it, its resolutions kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import PatchError
from ..upstream import store
from . import applying, folders, journal, patchset, placing, resolving
from .folders import Files
from .journal import Change
from .patchset import Series, Upstream
from .resolutions import RESOLUTIONS, Resolution, as_files


def keep(project: Path, archive: str | None) -> list[Resolution]:
    """Write what the series does on its upstream that a replay of the committed one would not, and put that one back.

    ``archive``: ``PACKAGE==VERSION`` of an sdist with upstream's files; what was kept before if it is not given.
    Call with the checkout's lock held. Raises PatchError.
    """
    if unfinished := journal.read(project):
        raise PatchError(f"{unfinished.what} is not finished: run 'kvsplit-patch continue' or 'abort' first.")
    moved = patchset.load(project / "patchset")
    files = _committed_files(project)
    committed = _load(files)
    upstream, base = moved.lock.upstream, moved.lock.base_tree
    if base == committed.lock.base_tree:
        raise PatchError("The series stands where the last commit has it: run 'kvsplit-patch rebase' first.")
    if moved.names() != [name for name in committed.names() if name in moved.names()]:
        raise PatchError("The series has more patches than in the last commit, or another order: commit that first.")
    target = _name(upstream)
    archive = archive or next((each.archive for each in committed.resolutions if each.target == target), "")
    steps = {step.name: step for step in applying.at_base(moved)}
    kept = resolving.made(store.open_store(), target, archive, applying.at_base(committed), steps, base)
    whole = f"{RESOLUTIONS}/{target}/"
    files = {path: file for path, file in files.items() if not path.startswith(whole)} | as_files(kept)
    placing.write(project, files, but=whole)
    lock, now = committed.lock, patchset.digest(project / "patchset")
    placing.put(
        project, Change(f"keep on {target}", lock.series_version, lock.upstream, lock.base_tree, (), (), "", now)
    )
    return kept


def _name(upstream: Upstream) -> str:
    return upstream.archive or upstream.tag or upstream.bindings or upstream.commit


def _committed_files(project: Path) -> Files:
    import pygit2

    repo = pygit2.Repository(str(project))
    folder = None if repo.head_is_unborn else store.entry_at(repo, str(repo.head.peel(pygit2.Tree).id), "patchset")
    if not folder:
        raise PatchError(f"{project} has no commit with a patchset/ to go back to: commit the series first.")
    return {path: (mode, store.read_blob(repo, blob)) for path, mode, blob in store.entries(repo, folder[1])}


def _load(files: Files) -> Series:
    with tempfile.TemporaryDirectory() as scratch:
        folders.write(Path(scratch) / "patchset", files)
        return patchset.load(Path(scratch) / "patchset")
