"""``patchset/``: an ordered set of patches and the upstream commit they stand on.

``series`` names the patches, top first. What one changes is in ``NAME.patch``; what it adds lies in ``NAME/`` as files,
at the paths where they go. ``lock.json`` says what they were written against and what must come out, so that any
machine can tell whether it holds the same series.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PatchError
from ..paths import patchset_dir
from . import dep3, folders, gitdiff, resolutions
from .folders import Files
from .resolutions import RESOLUTIONS, Resolution

if TYPE_CHECKING:
    import pygit2

SERIES_HEAD = "# Applied from top to bottom by kvsplit-patch; lock.json names the upstream commit underneath.\n"


@dataclass(frozen=True)
class Upstream:
    """The commit a series stands on.

    ``bindings``: the llama-cpp-python release whose sdist holds it, if one does. ``archive``: what the import is called
    that it was made by, where upstream's own commit is not known.
    """

    url: str
    commit: str
    tag: str | None = None
    bindings: str | None = None
    archive: str | None = None


@dataclass(frozen=True)
class LockedFile:
    """A file that a patch adds. ``mode``: git's, in octal digits."""

    path: str
    mode: str
    sha256: str


@dataclass(frozen=True)
class LockedPatch:
    """What a patch file and the patch's own files must hash to, its ``patch_id()``, and the tree after it on the base.

    ``needs``: files that an upstream commit must have for the patch to go onto it: how far back the series reaches.
    """

    name: str
    sha256: str
    patch_id: str
    tree: str
    needs: tuple[str, ...] = ()
    files: tuple[LockedFile, ...] = ()


@dataclass(frozen=True)
class Lock:
    series_version: str
    upstream: Upstream
    base_tree: str
    result_tree: str
    patches: tuple[LockedPatch, ...]


@dataclass(frozen=True)
class Patch:
    """One patch: ``name`` without ``.patch``, its header, its diff as text, and the files that it adds, by path."""

    name: str
    header: dep3.Header
    diff: bytes
    files: Files

    def text(self) -> bytes:
        return dep3.format_header(self.header).encode() + self.diff

    def contents(self) -> Files:
        """The patch as it lies in ``patchset/``."""
        own = {f"{self.name}/{path}": file for path, file in self.files.items()}
        return {f"{self.name}.patch": (gitdiff.FILE, self.text()), **own}

    def changes(self) -> tuple[pygit2.Patch, ...]:
        """Its diff, file by file. Raises PatchError on one that cannot be read."""
        return gitdiff.parse_diff(self.diff, self.name)

    def line_counts(self) -> tuple[int, int]:
        """How many lines it adds and removes."""
        new = sum(len(gitdiff.split_lines(data)) for _, data in self.files.values())
        counts = [change.line_stats for change in self.changes()]
        return new + sum(added for _, added, _ in counts), sum(removed for _, _, removed in counts)

    def patch_id(self) -> str:
        """``git patch-id --stable`` of all that it does. Raises PatchError on a diff that cannot be read."""
        self.changes()
        return gitdiff.patch_id(self.diff, self.files)

    def touched(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(change.delta.new_file.path for change in self.changes()), *self.files)))

    def locked(self, tree: str) -> LockedPatch:
        """What ``lock.json`` says of it, ``tree`` being the one after it."""
        files = (LockedFile(path, f"{mode:o}", _sha256(data)) for path, (mode, data) in sorted(self.files.items()))
        return LockedPatch(self.name, _sha256(self.text()), self.patch_id(), tree, self.header.needs, tuple(files))


@dataclass(frozen=True)
class Series:
    lock: Lock
    patches: tuple[Patch, ...]
    resolutions: tuple[Resolution, ...] = ()

    def kept(self, tree: str) -> dict[str, Resolution]:
        """Patch -> how a person resolved it on an upstream tree; nothing on the base, where the patches were made.

        Raises PatchError where one is of no patch of the series.
        """
        kept = {each.patch: each for each in self.resolutions if each.tree == tree != self.lock.base_tree}
        for each in kept.values():
            if each.patch not in self.names():
                raise PatchError(resolutions.stranger(each))
        return kept

    def names(self) -> list[str]:
        return [patch.name for patch in self.patches]

    def index(self, name: str) -> int:
        """Where a patch stands, given its name with or without ``.patch``. Raises PatchError."""
        name = name.removesuffix(".patch")
        if name not in self.names():
            raise PatchError(f"The series has no patch named {name}: it has {', '.join(self.names()) or 'none'}.")
        return self.names().index(name)


def load(folder: Path | None = None) -> Series:
    """Read a patchset folder, by default the checkout's or the installed one.

    Raises PatchError on anything that cannot be read; ``lint`` checks the rest.
    """
    folder = folder or patchset_dir()
    lock = read_lock(folder)
    patches = tuple(read_patch(folder, name) for name in read_names(folder))
    return Series(lock, patches, resolutions.load(folder))


def read_names(folder: Path) -> list[str]:
    names: list[str] = []
    for line in (folder / "series").read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if not line.endswith(".patch") or "/" in line or line in (*names, f"{RESOLUTIONS}.patch"):
            raise PatchError(f"patchset/series: {line!r} is not one new *.patch file of that folder: correct the line.")
        names.append(line)
    return [name.removesuffix(".patch") for name in names]


def read_patch(folder: Path, name: str) -> Patch:
    try:
        text = (folder / f"{name}.patch").read_bytes()
    except FileNotFoundError:
        raise PatchError(
            f"patchset/series names {name}.patch, which is not there: restore the file or the line."
        ) from None
    head, diff = dep3.split(text, name)
    files = folders.read(folder / name)
    for path, (mode, data) in files.items():
        gitdiff.checked_path(os.fsencode(path), f"patchset/{name}/")
        if mode == gitdiff.LINK or b"\0" in data[:8000]:
            kind = "link" if mode == gitdiff.LINK else "binary file"
            raise PatchError(f"patchset/{name}/{path} is a {kind}: patches here add text files only, so remove it.")
    if not diff and not files:
        raise PatchError(f"{name}.patch holds no diff and patchset/{name}/ no file: remove it from patchset/series.")
    return Patch(name, dep3.parse_header(head, name), diff, files)


def read_lock(folder: Path) -> Lock:
    try:
        data = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
        return Lock(
            series_version=data["series_version"],
            upstream=Upstream(**data["upstream"]),
            base_tree=data["base_tree"],
            result_tree=data["result_tree"],
            patches=tuple(_locked_patch(**patch) for patch in data["patches"]),
        )
    except FileNotFoundError:
        raise PatchError(f"{folder} has no lock.json: restore it with 'git checkout'.") from None
    except (ValueError, KeyError, TypeError) as broken:
        raise PatchError(
            f"{folder / 'lock.json'} cannot be read ({broken!r}): restore it with 'git checkout'."
        ) from None


def _locked_patch(needs=(), files=(), **fields) -> LockedPatch:
    return LockedPatch(needs=tuple(needs), files=tuple(LockedFile(**file) for file in files), **fields)


def write_lock(lock: Lock) -> bytes:
    data = asdict(lock)
    if lock.upstream.archive is None:
        del data["upstream"]["archive"]
    data["patches"] = [{key: value for key, value in patch.items() if value != ()} for patch in data["patches"]]
    return (json.dumps({"schema": 2, **data}, indent=2) + "\n").encode()


@dataclass(frozen=True)
class Step:
    """A patch and the trees before and after it, all in the store."""

    name: str
    header: dep3.Header
    before: str
    after: str


def export(repo, version: str, upstream: Upstream, base_tree: str, steps: Sequence[Step]) -> Files:
    """The files of ``patchset/`` for steps that follow one another from ``base_tree``.

    The same trees and headers give the same bytes on any machine.
    """
    patches = [Patch(s.name, s.header, *gitdiff.write_diff(repo, s.before, s.after, s.name)) for s in steps]
    locked = tuple(patch.locked(step.after) for patch, step in zip(patches, steps))
    lock = Lock(version, upstream, base_tree, steps[-1].after if steps else base_tree, locked)
    files = {path: file for patch in patches for path, file in patch.contents().items()}
    names = SERIES_HEAD + "".join(f"{patch.name}.patch\n" for patch in patches)
    return {**files, "series": (gitdiff.FILE, names.encode()), "lock.json": (gitdiff.FILE, write_lock(lock))}


def others(folder: Path) -> Files:
    """What lies in a patchset folder and is no part of a series."""
    names = {patch.name for patch in read_lock(folder).patches} if (folder / "lock.json").exists() else set()
    names |= {path.name.removesuffix(".patch") for path in folder.glob("*.patch")}
    ours = {"series", "lock.json", *names, *(f"{name}.patch" for name in names)}
    return {path: file for path, file in folders.read(folder).items() if path.partition("/")[0] not in ours}


def fingerprint(files: Files) -> str:
    """One SHA-256 over paths, modes and bytes."""
    total = hashlib.sha256()
    for path, (mode, data) in sorted(files.items()):
        total.update(f"{len(path)} {path} {mode:o} {len(data)} ".encode(errors="surrogateescape") + data)
    return total.hexdigest()


def digest(folder: Path) -> str:
    """The fingerprint of a patchset folder; empty if there is no such folder."""
    return fingerprint(folders.read(folder)) if folder.is_dir() else ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
