"""Whether a patchset folder is what ``kvsplit-patch export`` would write, and if not, why."""

from pathlib import Path

from ..errors import PatchError
from ..upstream import store
from . import applying, folders, patchset, resolutions
from .folders import Files
from .resolutions import RESOLUTIONS

_EITHER = "run 'kvsplit-patch export', or restore it with 'git checkout'"


def lint(folder: Path) -> list[str]:
    """One sentence a fault, none if the folder is whole. Fetches the base commit if the store lacks it."""
    names = patchset.read_names(folder)
    present = {path.name.removesuffix(".patch") for path in folder.glob("*.patch")}
    faults = [
        f"{name}.patch lies in patchset/ but patchset/series does not name it." for name in sorted(present - set(names))
    ]
    faults += [f"patchset/series names {name}.patch, which is not there." for name in names if name not in present]
    lock = patchset.read_lock(folder)
    strange = {path.partition("/")[0] for path in patchset.others(folder) if "/" in path} - {*names, RESOLUTIONS}
    faults += [f"patchset/{name}/ is the folder of no patch in patchset/series: remove it." for name in sorted(strange)]
    if [patch.name for patch in lock.patches] != names:
        faults.append("lock.json and patchset/series do not name the same patches in the same order.")
    locked = {patch.name: patch for patch in lock.patches}
    for name in names:
        if name in present:
            faults += _lint_patch(folder, name, locked.get(name))
    faults += _lint_resolutions(folder, names, lock.base_tree)
    if not faults:
        faults += _lint_export(folder)
    return faults


def _lint_patch(folder: Path, name: str, locked: patchset.LockedPatch | None) -> list[str]:
    try:
        patch = patchset.read_patch(folder, name)
        patch.changes()  # every count and every line of the diff
    except PatchError as fault:
        return [fault.message]
    if not locked:
        return []  # that is a fault already
    now = patch.locked(locked.tree)
    faults = _lint_files(name, {file.path: file for file in locked.files}, {file.path: file for file in now.files})
    if (folder / f"{name}.patch").read_bytes() == patch.text() and now.sha256 == locked.sha256:
        return faults
    if now.patch_id == locked.patch_id:
        return [
            *faults,
            f"{name}.patch has the diff that lock.json names, but another text: run 'kvsplit-patch export'.",
        ]
    return [*faults, f"{name}.patch is not the patch that lock.json names: {_EITHER}."]


def _lint_files(name: str, locked: dict, now: dict) -> list[str]:
    faults = []
    for path in sorted(locked.keys() | now.keys()):
        file, was = now.get(path), locked.get(path)
        if file == was:
            continue
        if not was:
            fault = "is not known to lock.json: run 'kvsplit-patch export' to take it in, or remove it"
        elif not file:
            fault = f"is not there, and lock.json names it: {_EITHER}"
        elif file.sha256 != was.sha256:
            fault = f"is not the file that lock.json names: {_EITHER}"
        else:
            fault = f"has the mode {file.mode}, and {was.mode} in lock.json: {_EITHER}"
        faults.append(f"patchset/{name}/{path} {fault}.")
    return faults


def _lint_resolutions(folder: Path, names: list[str], base: str) -> list[str]:
    try:
        kept = resolutions.load(folder)
    except PatchError as fault:
        return [fault.message]
    # Where the series stands, it has dropped what it was told to.
    return [resolutions.stranger(each) for each in kept if each.patch not in names and each.tree != base]


def _lint_export(folder: Path) -> list[str]:
    try:
        files = export(folder)
    except PatchError as fault:
        return [fault.message]
    return [
        f"patchset/{name} is not what an export gives: run 'kvsplit-patch export'." for name in differing(folder, files)
    ]


def export(folder: Path, version: str | None = None) -> Files:
    """The files a patchset folder should hold, made again from its own patches on its own base."""
    loaded = patchset.load(folder)
    steps = applying.at_base(loaded)
    lock = loaded.lock
    return patchset.export(store.open_store(), version or lock.series_version, lock.upstream, lock.base_tree, steps)


def differing(folder: Path, files: Files) -> list[str]:
    """Paths of files that differ from ``files``, or that only one side has (others' files left aside)."""
    present, others = folders.read(folder), patchset.others(folder)
    ours = (present.keys() - others.keys()) | files.keys()
    return sorted(path for path in ours if present.get(path) != files.get(path))
