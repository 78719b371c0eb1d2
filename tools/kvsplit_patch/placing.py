"""Putting a newly written ``patchset/`` in the place of the old one, whole, and keeping the old one for ``undo``."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import click

from . import journal, series
from .errors import PatchError
from .journal import State
from .paths import state_dir
from .swap import swap, sync, write_file


def write(project: Path, files: dict[str, bytes]):
    """Write the new series beside the old one, with whatever else lies in ``patchset/``.

    Raises PatchError, the old series untouched, when it cannot be written.
    """
    kept = {name: data for name, data in series.contents(project / "patchset").items() if not _is_ours(name)}
    folder = _beside(project)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        for name, data in {**kept, **files}.items():
            write_file(folder / name, data)
        sync(folder)
    except OSError as failure:
        shutil.rmtree(folder, ignore_errors=True)
        raise PatchError(
            f"The new series could not be written beside patchset/, which is as it was ({failure.strerror}): "
            "make room, then run kvsplit-patch continue or abort."
        ) from None


def put(project: Path, state: State):
    """Exchange what ``write`` wrote for ``patchset/``, the journal knowing of it first, and end the change."""
    _keep_previous(project, state)
    state = replace(state, new=series.digest(_beside(project)))
    journal.write(project, state)
    settle(project, state)


def _keep_previous(project: Path, state: State):
    """Keep what ``previous`` gives, under a name that does not count until the swap is done."""
    folder = state_dir(project) / "previous.next"
    shutil.rmtree(folder, ignore_errors=True)
    note = {"what": state.what, "new": series.digest(_beside(project))}
    try:
        (folder / "patchset").mkdir(parents=True)
        for name, data in series.contents(project / "patchset").items():
            write_file(folder / "patchset" / name, data)
        write_file(folder / "note.json", json.dumps(note).encode())
    except OSError as failure:
        shutil.rmtree(folder, ignore_errors=True)
        raise PatchError(
            f"The old series could not be kept in {folder.parent} ({failure.strerror}): "
            "make room, then run kvsplit-patch continue or abort."
        ) from None


def settle(project: Path, state: State):
    """The exchange itself and what follows it. Runs again after a kill, from wherever that was."""
    patchset, beside = project / "patchset", _beside(project)
    if series.digest(patchset) != state.new:
        if series.digest(beside) != state.new:
            raise PatchError(f"{beside} was changed, so {state.what} cannot end: run kvsplit-patch abort.")
        swap(patchset, beside)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(beside.with_name(".patchset-old"), ignore_errors=True)
    previous, coming = state_dir(project) / "previous", state_dir(project) / "previous.next"
    if coming.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(coming, previous)
    journal.remove(project)
    click.echo(f"{state.what}: patchset/ is in place")


def discard(project: Path):
    """Forget what was written but not put in place."""
    shutil.rmtree(_beside(project), ignore_errors=True)
    shutil.rmtree(state_dir(project) / "previous.next", ignore_errors=True)


def previous(project: Path) -> tuple[dict, Path]:
    """What the last finished change was (``what``, and ``new``, the digest it left), and the series before it."""
    folder = state_dir(project) / "previous"
    try:
        return json.loads((folder / "note.json").read_text()), folder / "patchset"
    except FileNotFoundError:
        raise PatchError(
            "There is no finished change to undo in this checkout: use git to look further back."
        ) from None


def _is_ours(name: str) -> bool:
    return name.endswith(".patch") or name in ("series", "lock.json")


def _beside(project: Path) -> Path:
    return project / ".kvsplit-next"  # beside patchset/, since folders are exchanged within one file system
