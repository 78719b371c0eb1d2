"""What a person once decided where a patch meets one certain upstream, kept beside the series and used there again.

``patchset/resolutions/TARGET/NAME.diff`` is the change from what a merge gives by itself (with upstream's side where
both changed the same lines) to what the patch was to be. It holds on one upstream tree only. The places that were
decided are in its header as a hash: where the patch changes there later, a person is asked anew. Changes of the patch
elsewhere do not matter, since a hunk is found by its lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError
from . import folders, gitdiff
from .folders import Files

#: The folder in ``patchset/`` that holds them, and that is no patch's.
RESOLUTIONS = "resolutions"


@dataclass(frozen=True)
class Resolution:
    """``conflicts``: a hash of the places that a merge leaves open, or empty where it leaves none.

    ``archive``: ``PACKAGE==VERSION``, the sdist with upstream's files where git's objects are not to be had.
    """

    target: str
    patch: str
    #: The 40-hex id of upstream's tree, without any patch.
    tree: str
    conflicts: str
    archive: str
    diff: bytes

    @property
    def path(self) -> str:
        """Where it lies in ``patchset/``."""
        return f"{RESOLUTIONS}/{self.target}/{self.patch}.diff"

    def text(self) -> bytes:
        fields = {"Upstream-Tree": self.tree, "Conflicts": self.conflicts, "Archive": self.archive}
        head = f"How {self.patch} is resolved on llama.cpp {self.target}; 'kvsplit-patch keep' wrote it.\n\n"
        head += "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
        return head.encode() + b"---\n" + self.diff


def load(folder: Path) -> tuple[Resolution, ...]:
    """All that are kept in a ``patchset/`` folder. Raises PatchError on one that cannot be read."""
    files = folders.read(folder / RESOLUTIONS)
    return tuple(_parse(path, data) for path, (_, data) in sorted(files.items()))


def _parse(path: str, data: bytes) -> Resolution:
    head, _, diff = data.partition(b"---\n")
    fields = dict(re.findall(r"^([A-Z][\w-]+): (.+)$", head.decode(errors="replace"), re.MULTILINE))
    place = re.fullmatch(r"([\w.+-]+)/([\w.+-]+)\.diff", path)
    if not place or not re.fullmatch(r"[0-9a-f]{40}", fields.get("Upstream-Tree", "")):
        raise PatchError(
            f"patchset/{RESOLUTIONS}/{path} is no resolution that 'kvsplit-patch keep' wrote: restore it with "
            "'git checkout', or remove it."
        )
    tree, conflicts, archive = (fields.get(name, "") for name in ("Upstream-Tree", "Conflicts", "Archive"))
    gitdiff.parse_diff(diff, f"{RESOLUTIONS}/{path}")
    return Resolution(place[1], place[2], tree, conflicts, archive, diff)


def stranger(resolution: Resolution) -> str:
    """What is to be said of one whose patch the series does not have."""
    return (
        f"patchset/{resolution.path} is of no patch in patchset/series: give it the name of the patch that took that "
        "one's place, or remove it."
    )


def as_files(resolutions: Iterable[Resolution]) -> Files:
    return {each.path: (gitdiff.FILE, each.text()) for each in resolutions}
