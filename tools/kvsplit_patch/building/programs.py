"""Upstream's programs for a build that the plugin uses: of the same tree, with the same flags, on the same libraries."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_kvsplit import files
from llm_kvsplit.builds import shelf
from llm_kvsplit.builds.shelf import Build

from ..echo import Echo
from ..errors import PatchError, Unable
from ..series import trees
from ..series.trees import SourceTree
from . import cmake
from .libraries import copy_libraries


def for_build(build: Build, program: Path, echo: Echo, *, added: Mapping[str, Path] | None = None) -> Path:
    """Compile upstream's target that ``program`` is named after; its folder appears whole or not at all.

    For ``added`` see ``cmake.compiled``. Raises PatchError as that does, and Unable for a build of another series than
    the one here.
    """
    source, flags = _made_of(build)
    folder = program.parent
    with cmake.compiled(source.folder, source.commit, flags, [program.name], echo, added) as out:
        if not program.is_file():  # another process may have made it while we waited
            with cmake.disk_full_explained(folder.parent), shelf.whole(folder) as temporary:
                for names in (*cmake.LIBRARIES, "ggml*", "llama-common", f"{program.name}-impl"):
                    copy_libraries(out, temporary, names)
                _link_those_of(build, folder, temporary)
                shutil.copy2(out / program.name, temporary / program.name)
    return program


def _made_of(build: Build) -> tuple[SourceTree, Sequence[str]]:
    """The tree and the flags of a build."""
    manifest: dict[str, Any] = build.manifest or {}
    try:
        source = trees.patched() if manifest["patches"] else trees.unpatched(manifest["upstream_commit"])
        flags, same = manifest["flags"], source.tree == manifest["tree"]
    except KeyError as missing:
        raise PatchError(f"The manifest of {build.id} lacks {missing}: make the build anew.") from None
    if not same:
        raise Unable(
            f"{build.id} is of another version of the series: 'llm kvsplit backend build' makes one of this version."
        )
    return source, flags


def _link_those_of(build: Build, folder: Path, temporary: Path) -> None:
    """Put links in the place of copies that are the build's own libraries, byte for byte."""
    assert build.folder is not None
    for name, digest in (build.manifest or {})["libraries"].items():
        copy = temporary / name
        if copy.is_file() and files.sha256(copy) == digest:
            copy.unlink()
            copy.symlink_to(os.path.relpath(build.folder / name, folder))
