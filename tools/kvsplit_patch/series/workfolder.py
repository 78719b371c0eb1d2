"""A git repository of its own where a person edits a patched tree.

It borrows the store's objects, has one commit a patch, and can be deleted at any time. What counts when it
is read back is what lies on disk, byte for byte, whether or not it was added or committed there.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import PatchError
from ..upstream import store
from . import folders
from .patchset import Step

_MIDDLE = b"======="
_MARKER = re.compile(rb"(<<<<<<<|\|\|\|\|\|\|\||>>>>>>>) |(=======)\r?\Z")


def create(
    folder: Path, note: dict[str, Any], commits: Sequence[tuple[str, str]], index: Callable[[Any], Any] | None = None
) -> None:
    """Make a work folder whose history is ``commits`` ((message, tree id), oldest first).

    ``index``: a function from the folder's repository to a merge to lay out on top, conflicts as diff3 markers.
    ``note``: what ``read_note`` gives back. Only a folder left by an earlier conflict of the same checkout is
    replaced; raises PatchError on any other that is in use.
    """
    import pygit2
    from pygit2.enums import CheckoutStrategy

    occupied = folder.exists() and any(folder.iterdir())
    if occupied and (note["kind"] != "conflict" or not is_from_conflict(folder, note["checkout"])):
        raise PatchError(f"{folder} is not empty: name another folder, or remove it.")
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        pygit2.init_repository(str(beside), initial_head="kvsplit")
        git = beside / ".git"
        for path, text in (
            ("objects/info/alternates", str(Path(store.open_store().path) / "objects") + "\n"),
            ("info/attributes", "* -text -ident -filter -working-tree-encoding\n"),  # bytes stay as they are
        ):
            (git / path).parent.mkdir(exist_ok=True)
            (git / path).write_text(text)
        repo = pygit2.Repository(str(beside))
        repo.config["core.autocrlf"] = False
        for message, tree in commits:
            _commit(repo, message, tree)
        repo.checkout_head(strategy=CheckoutStrategy.FORCE)
        if index is not None:
            strategy = CheckoutStrategy.FORCE | CheckoutStrategy.ALLOW_CONFLICTS | CheckoutStrategy.CONFLICT_STYLE_DIFF3
            repo.checkout_index(index(repo), strategy=strategy)
        write_note(beside, note)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def commit_of(step: Step) -> tuple[str, str]:
    """Message and tree of the commit that a patch is in a work folder: its description, and its name as a git trailer."""
    return f"{step.header.description}\n\nPatch: {step.name}", step.after


def _commit(repo, message: str, tree: str, amend: bool = False) -> None:
    import pygit2

    who = pygit2.Signature("kvsplit-patch", "kvsplit-patch@localhost", 0, 0)
    parents = [] if repo.head_is_unborn else repo.head.peel(pygit2.Commit).parent_ids if amend else [repo.head.target]
    commit = repo.create_commit(None, who, who, message + "\n", pygit2.Oid(hex=tree), parents)
    repo.references.create("refs/heads/kvsplit", commit, force=True)


def record(folder: Path, step: Step, amend: bool) -> None:
    """Commit in an ``apply`` folder what its patch has become, so that the next edit shows alone."""
    import pygit2

    repo = pygit2.Repository(str(folder))
    _commit(repo, *commit_of(step), amend)
    repo.set_head("refs/heads/kvsplit")
    repo.index.read_tree(pygit2.Oid(hex=step.after))
    repo.index.write()
    write_note(folder, {"kind": "apply", "patch": step.name, "tree": step.after})


def read_note(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / ".git" / "kvsplit.json").read_text())
    except (OSError, ValueError):
        return None


def is_from_conflict(folder: Path, checkout: str) -> bool:
    note = read_note(folder) or {}
    return (note.get("kind"), note.get("checkout")) == ("conflict", checkout)


def write_note(folder: Path, note: dict[str, Any]) -> None:
    (folder / ".git" / "kvsplit.json").write_text(json.dumps(note))


def require_applied(folder: Path, trees: Sequence[str]) -> dict[str, Any]:
    """The note of a folder that ``apply`` made from one of ``trees``. Raises PatchError."""
    note = read_note(folder)
    if not note or note["kind"] != "apply":
        raise PatchError(f"{folder} was not made by 'kvsplit-patch apply': make one, and edit there.")
    if note["tree"] not in trees:
        raise PatchError(f"The series has changed since {folder} was made: apply it anew, and carry your edits over.")
    return note


def read(folder: Path) -> str:
    """The tree on disk, written to the store; its 40-hex id. Files that git ignores and no commit holds are left out."""
    import pygit2
    from pygit2.enums import FileMode

    target = store.open_store()
    repo = pygit2.Repository(str(folder))
    known = {path: (mode, blob) for path, mode, blob in store.entries(repo, str(repo.head.peel(pygit2.Tree).id))}
    tracked = known.keys() | {entry.path for entry in repo.index}
    index = pygit2.Index()
    for path, entry in known.items():
        if entry[0] == 0o160000:  # a submodule: upstream's, never ours to change
            index.add(pygit2.IndexEntry(path, pygit2.Oid(hex=entry[1]), FileMode(entry[0])))
    for path in folders.paths(folder):
        if path not in tracked and repo.path_is_ignored(path):
            continue
        mode, data = folders.content(folder / path)
        blob = str(pygit2.hash(data))
        if known.get(path, (None, None))[1] != blob:
            blob = str(target.create_blob(data))
        index.add(pygit2.IndexEntry(path, pygit2.Oid(hex=blob), FileMode(mode)))
    return str(index.write_tree(target))


def unresolved(folder: Path, conflicts: Sequence[tuple[str, str]], trees: Sequence[str]) -> list[str]:
    """What still stands in the way of taking a conflict as resolved: one phrase a place, with the line number.

    ``trees``: the two that were merged. What looks like a marker and was in one of their files is none.
    """
    import pygit2

    target = store.open_store()
    standing = {}  # path -> whether all sides, or both new ones, are there: then it is one of lines, shown by markers
    for ancestor, ours, theirs in pygit2.Repository(str(folder)).index.conflicts or ():
        standing[(ours or theirs or ancestor).path] = bool(ours and theirs)
    places = []
    for path, _ in conflicts:
        file = folder / path
        sides = (store.entry_at(target, tree, path) for tree in trees)
        known = [
            _markers(store.read_blob(target, side[1])) for side in sides if side and side[0] in (0o100644, 0o100755)
        ]
        markers = _markers(file.read_bytes() if file.is_file() else b"")
        before = {mark: max([len(side.get(mark, ())) for side in known], default=0) for mark in markers}
        left = [mark for mark in markers if len(markers[mark]) > before[mark]]
        sure = [markers[mark][0] for mark in left if mark != _MIDDLE]
        if sure:
            places.append(f"{path}:{min(sure)} still has a conflict marker")
        elif left and path in standing:  # a heading looks the same
            places.append(f"{path}:{markers[_MIDDLE][-1]} is =======: remove it, or say 'git add' to keep it")
        elif not standing.get(path, True):
            places.append(f"{path}: say 'git add' to keep it or 'git rm' to drop it")
    return places


def _markers(data: bytes) -> dict[bytes, list[int]]:
    """Which lines could be a conflict's markers: kind -> line numbers."""
    lines: dict[bytes, list[int]] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if marker := _MARKER.match(line):
            lines.setdefault(marker[1] or marker[2], []).append(number)
    return lines
