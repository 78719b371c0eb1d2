"""Laying trees of the store out as source folders."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..errors import PatchError
from ..paths import sources_dir
from . import store


def materialize(tree: str) -> Path:
    """A folder with the files of a tree, byte for byte, files read-only; made once and shared.

    Build elsewhere (``cmake -S folder -B elsewhere``). Raises PatchError if the store lacks the tree.
    """
    repo = store.open_store()
    if tree not in repo:
        raise PatchError(f"The store lacks the tree {tree}: fetch the upstream commit it belongs to.")
    target = sources_dir() / tree
    if target.is_dir():
        return target
    sources_dir().mkdir(parents=True, exist_ok=True)
    with _temporary_beside(target) as folder:
        _write_tree(repo, tree, folder)
        try:
            os.rename(folder, target)
        except OSError:  # another process was first; theirs is the same
            if not target.is_dir():
                raise
    return target


def _write_tree(repo, tree: str, folder: Path) -> None:
    """Write a tree's files, read-only, into an empty folder: no filters, no line-ending conversion, links as links."""
    for path, mode, blob in store.entries(repo, tree):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == 0o160000:
            target.mkdir()
        elif mode == 0o120000:
            os.symlink(os.fsdecode(store.read_blob(repo, blob)), target)
        else:
            # "x": a tree that names a path twice, or hides one behind a link, must not write elsewhere.
            with open(target, "xb") as file:
                file.write(store.read_blob(repo, blob))
            target.chmod(0o555 if mode == 0o100755 else 0o444)


@contextmanager
def _temporary_beside(target: Path):
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:12]}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
