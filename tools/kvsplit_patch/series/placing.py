"""Putting a newly written ``patchset/`` in the place of the old one, whole, and keeping the old one for ``undo``."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import click

from ..errors import PatchError
from ..paths import state_dir
from . import folders, gitdiff, journal, patchset
from .folders import Files
from .journal import Change


def write(project: Path, files: Files, but: str = "") -> None:
    """Write the new series beside the old one, with whatever else lies in ``patchset/``.

    ``but``: how the paths begin that are left out of that.

    Raises PatchError, the old series untouched, when it cannot be written.
    """
    others = patchset.others(project / "patchset").items()
    everything = {path: file for path, file in others if not (but and path.startswith(but))} | files
    _write(_beside(project), everything, "The new series could not be written beside patchset/, which is as it was")


def put(project: Path, change: Change) -> None:
    """Exchange what ``write`` wrote for ``patchset/``, the journal knowing of it first, and end the change."""
    change = replace(change, new=patchset.digest(_beside(project)))
    note = {"what": change.what, "new": change.new}
    previous = {f"patchset/{path}": file for path, file in folders.read(project / "patchset").items()}
    previous["note.json"] = gitdiff.FILE, json.dumps(note).encode()
    # For ``undo``, under a name that does not count until the exchange is done.
    _write(state_dir(project) / "previous.next", previous, "The old series could not be kept for undo")
    journal.write(project, change)
    finish(project, change)


def _write(folder: Path, files: Files, failed: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folders.write(folder, files)
    except OSError as failure:
        shutil.rmtree(folder, ignore_errors=True)
        raise PatchError(
            f"{failed} ({failure.strerror}): make room, then run 'kvsplit-patch continue' or 'abort'."
        ) from None


def finish(project: Path, change: Change) -> None:
    """The exchange itself and what follows it. Runs again after a kill, from wherever that was."""
    current, beside = project / "patchset", _beside(project)
    if patchset.digest(current) != change.new:
        if patchset.digest(beside) != change.new:
            raise PatchError(f"{beside} was changed, so {change.what} cannot end: run 'kvsplit-patch abort'.")
        folders.swap(current, beside)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(beside.with_name(".patchset-old"), ignore_errors=True)
    previous, coming = state_dir(project) / "previous", state_dir(project) / "previous.next"
    if coming.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(coming, previous)
    journal.remove(project)
    click.echo(f"{change.what}: patchset/ is in place")


def discard(project: Path) -> None:
    """Forget what was written but not put in place."""
    shutil.rmtree(_beside(project), ignore_errors=True)
    shutil.rmtree(state_dir(project) / "previous.next", ignore_errors=True)


def previous(project: Path) -> tuple[dict[str, str], Path]:
    """What the last finished change was (``what``, and ``new``, the digest it left), and the series before it."""
    folder = state_dir(project) / "previous"
    try:
        return json.loads((folder / "note.json").read_text()), folder / "patchset"
    except FileNotFoundError:
        raise PatchError(
            "There is no finished change to undo in this checkout: use git to look further back."
        ) from None


def _beside(project: Path) -> Path:
    return project / ".kvsplit-next"  # beside patchset/, since folders are exchanged within one file system
