"""Whether a patchset folder is what ``kvsplit-patch export`` would write, and if not, why."""

import hashlib
from pathlib import Path

from . import replay, series, store
from .errors import PatchError


def lint(folder: Path) -> list[str]:
    """One sentence a fault, none if the folder is whole. Fetches the base commit if the store lacks it."""
    names = series.read_names(folder)
    present = {path.name.removesuffix(".patch") for path in folder.glob("*.patch")}
    faults = [
        f"{name}.patch lies in patchset/ but patchset/series does not name it." for name in sorted(present - set(names))
    ]
    faults += [f"patchset/series names {name}.patch, which is not there." for name in names if name not in present]
    lock = series.read_lock(folder)
    if [patch.name for patch in lock.patches] != names:
        faults.append("lock.json and patchset/series do not name the same patches in the same order.")
    locked = {patch.name: patch for patch in lock.patches}
    for name in names:
        if name in present:
            faults += _lint_patch(folder, name, locked.get(name))
    if not faults:
        faults += _lint_export(folder)
    return faults


def _lint_patch(folder: Path, name: str, locked) -> list[str]:
    try:
        patch = series.read_patch(folder, name)
        patch.sections()  # every count and every line of the diff
    except PatchError as fault:
        return [fault.message]
    text = (folder / f"{name}.patch").read_bytes()
    if locked and hashlib.sha256(text).hexdigest() == locked.sha256:
        return []
    if locked and patch.patch_id() == locked.patch_id:
        return [f"{name}.patch has the diff that lock.json names, but another text: run kvsplit-patch export."]
    return [
        f"{name}.patch is not the patch that lock.json names: run kvsplit-patch export, or restore it with git checkout."
    ]


def _lint_export(folder: Path) -> list[str]:
    try:
        files = export(folder)
    except PatchError as fault:
        return [fault.message]
    return [
        f"patchset/{name} is not what an export gives: run kvsplit-patch export." for name in differing(folder, files)
    ]


def export(folder: Path, version: str | None = None) -> dict[str, bytes]:
    """The files a patchset folder should hold, made again from its own patches on its own base."""
    loaded = series.load(folder)
    steps = replay.steps_at_base(loaded)
    lock = loaded.lock
    return series.export(store.open_store(), version or lock.series_version, lock.upstream, lock.base_tree, steps)


def differing(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Names of files that differ from ``files``, or that only one side has (others' files left aside)."""
    present = series.contents(folder)
    ours = {name for name in present if name.endswith(".patch")} | files.keys()
    return sorted(name for name in ours if present.get(name) != files.get(name))
