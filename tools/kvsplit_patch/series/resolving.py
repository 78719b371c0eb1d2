"""Merging with what a person once decided, and finding out what that was: see resolutions.py."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from ..errors import PatchError
from . import gitdiff
from .patchset import Step
from .resolutions import Resolution


def apply(repo, resolution: Resolution, step: Step, current: str) -> str | None:
    """The tree after a patch as a person resolved it; None where the resolution does not fit any more."""
    tree, conflicts = merged(repo, step, current)
    if conflicts != resolution.conflicts:
        return None
    try:
        diff = gitdiff.parse_diff(resolution.diff, resolution.patch)
        return gitdiff.apply_diff(repo, tree, diff, {}, resolution.patch, moved=True)
    except PatchError:
        return None


def merged(repo, step: Step, current: str) -> tuple[str, str]:
    """What a merge gives, with upstream's side where both changed the same, and a hash of those places, or nothing."""
    from pygit2.enums import MergeFavor, MergeFlag

    def merge(favor):
        return repo.merge_trees(step.before, current, step.after, favor=favor, flags=MergeFlag.FIND_RENAMES)

    conflicts = _fingerprint(repo, merge(MergeFavor.NORMAL))
    index = merge(MergeFavor.OURS)
    for ancestor, ours, theirs in list(index.conflicts or ()):  # a file that only one side has, or deleted
        del index.conflicts[(ours or theirs or ancestor).path]
        if ours:
            index.add(ours)
    return str(index.write_tree(repo)), conflicts


def _fingerprint(repo, index) -> str:
    places = hashlib.sha256()
    for ancestor, ours, theirs in index.conflicts or ():
        path = (ours or theirs or ancestor).path
        if ours and theirs:
            text = repo.merge_file_from_index(ancestor, ours, theirs).contents
            blocks = re.findall(r"^<<<<<<< .*?^>>>>>>> [^\n]*\n", text, re.MULTILINE | re.DOTALL)
        else:
            blocks = [str(side and side.id) for side in (ancestor, ours, theirs)]
        places.update("\n".join([path, *blocks, ""]).encode())
    return places.hexdigest()[:16] if index.conflicts else ""


def made(
    repo, target: str, archive: str, before: Iterable[Step], after: Mapping[str, Step], base: str
) -> list[Resolution]:
    """What the steps ``after``, by name, do otherwise on the tree ``base`` than a merge of the steps ``before`` does.

    A step that is not among them was dropped there: its resolution leaves the tree as it is.
    """
    resolutions, current = [], base
    for step in before:
        tree, conflicts = merged(repo, step, current)
        wanted = after[step.name].after if step.name in after else current
        if conflicts or tree != wanted or step.name not in after:
            diff = _diff(repo, tree, wanted, step.name)
            resolutions.append(Resolution(target, step.name, base, conflicts, archive, diff))
        current = wanted
    return resolutions


def _diff(repo, old: str, new: str, name: str) -> bytes:
    """One diff with the new files in it, and without ids: it is to fit other versions of the same files."""
    from pygit2 import Patch
    from pygit2.enums import DiffOption

    diff, files = gitdiff.write_diff(repo, old, new, name)
    sections = [diff]
    for path, (mode, data) in sorted(files.items()):
        text = Patch.create_from(None, data, new_as_path=path, flag=DiffOption.FORCE_TEXT).data
        sections.append(text.replace(b"\nnew file mode 100644\n", f"\nnew file mode {mode:o}\n".encode(), 1))
    return re.sub(rb"^index [0-9a-f]+\.\.[0-9a-f]+.*\n", b"", b"".join(sections), flags=re.MULTILINE)
