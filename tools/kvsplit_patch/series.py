"""``patchset/``: an ordered set of patches and the upstream commit they stand on.

``series`` names the files, top first; each ``*.patch`` is one patch; ``lock.json`` says what they were
written against and what must come out, so that any machine can tell whether it holds the same series.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from . import dep3, gitdiff
from .errors import PatchError

SERIES_HEAD = "# Applied from top to bottom by kvsplit-patch; lock.json names the upstream commit underneath.\n"


@dataclass(frozen=True)
class Upstream:
    """The commit a series stands on. ``bindings``: the llama-cpp-python release whose sdist holds it, if one does."""

    url: str
    commit: str
    tag: str | None = None
    bindings: str | None = None


@dataclass(frozen=True)
class LockedPatch:
    """What a patch file must hash to, its ``git patch-id --stable``, and the tree after it on the base.

    ``needs``: files that an upstream commit must have for the patch to go onto it: how far back the series reaches.
    """

    name: str
    sha256: str
    patch_id: str
    tree: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lock:
    series_version: str
    upstream: Upstream
    base_tree: str
    result_tree: str
    patches: tuple[LockedPatch, ...]


@dataclass(frozen=True)
class Patch:
    """One patch file: ``name`` without ``.patch``, its header, and its diff as text."""

    name: str
    header: dep3.Header
    diff: bytes

    def text(self) -> bytes:
        return dep3.format_header(self.header).encode() + self.diff

    def sections(self) -> tuple[gitdiff.FileDiff, ...]:
        return gitdiff.parse_diff(self.diff, self.name)

    def patch_id(self) -> str:
        """Equal to ``git patch-id --stable``: the same for the same change, wherever its lines lie."""
        from pygit2 import Diff

        return str(Diff.parse_diff(self.diff).patchid)

    def touched(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(section.path for section in self.sections()))


@dataclass(frozen=True)
class Series:
    lock: Lock
    patches: tuple[Patch, ...]

    def names(self) -> list[str]:
        return [patch.name for patch in self.patches]

    def index(self, name: str) -> int:
        """Where a patch stands, given its name with or without ``.patch``. Raises PatchError."""
        name = name.removesuffix(".patch")
        if name not in self.names():
            raise PatchError(f"The series has no patch named {name}: it has {', '.join(self.names()) or 'none'}.")
        return self.names().index(name)


def load(folder: Path) -> Series:
    """Read a patchset folder. Raises PatchError on anything that cannot be read; ``lint`` checks the rest."""
    return Series(read_lock(folder), tuple(read_patch(folder, name) for name in read_names(folder)))


def read_names(folder: Path) -> list[str]:
    names = []
    for line in (folder / "series").read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if not line.endswith(".patch") or "/" in line or line in names:
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
    return Patch(name, dep3.parse_header(head, name), diff)


def read_lock(folder: Path) -> Lock:
    try:
        data = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
        return Lock(
            series_version=data["series_version"],
            upstream=Upstream(**data["upstream"]),
            base_tree=data["base_tree"],
            result_tree=data["result_tree"],
            patches=tuple(LockedPatch(**{**patch, "needs": tuple(patch.get("needs", ()))}) for patch in data["patches"]),
        )
    except FileNotFoundError:
        raise PatchError(f"{folder} has no lock.json: restore it with git checkout.") from None
    except (ValueError, KeyError, TypeError) as broken:
        raise PatchError(f"{folder / 'lock.json'} cannot be read ({broken!r}): restore it with git checkout.") from None


def write_lock(lock: Lock) -> bytes:
    data = asdict(lock)
    for patch in data["patches"]:
        if not patch["needs"]:
            del patch["needs"]
    return (json.dumps({"schema": 1, **data}, indent=2) + "\n").encode()


@dataclass(frozen=True)
class Step:
    """A patch and the trees before and after it, all in the store."""

    name: str
    header: dep3.Header
    before: str
    after: str


def export(repo, version: str, upstream: Upstream, base_tree: str, steps) -> dict[str, bytes]:
    """The files of ``patchset/`` for steps that follow one another from ``base_tree``.

    The same trees and headers give the same bytes on any machine.
    """
    patches = [Patch(s.name, s.header, gitdiff.write_diff(repo, s.before, s.after, s.name)) for s in steps]
    locked = tuple(
        LockedPatch(patch.name, hashlib.sha256(patch.text()).hexdigest(), patch.patch_id(), step.after, patch.header.needs)
        for patch, step in zip(patches, steps)
    )
    lock = Lock(version, upstream, base_tree, steps[-1].after if steps else base_tree, locked)
    files = {f"{patch.name}.patch": patch.text() for patch in patches}
    files["series"] = (SERIES_HEAD + "".join(f"{patch.name}.patch\n" for patch in patches)).encode()
    files["lock.json"] = write_lock(lock)
    return files


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a patchset folder by name, to compare with ``export``."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def digest(folder: Path) -> str:
    """One SHA-256 over names and bytes of a patchset folder; empty if there is no such folder."""
    if not folder.is_dir():
        return ""
    total = hashlib.sha256()
    for name, data in contents(folder).items():
        total.update(f"{len(name)} {name} {len(data)} ".encode() + data)
    return total.hexdigest()
