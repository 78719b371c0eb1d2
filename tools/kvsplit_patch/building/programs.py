"""Upstream's programs for a build that the plugin uses: of the same tree, with the same flags, on the same libraries."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
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

#: Where llama.cpp looks for a web page that is ready made (scripts/ui-assets.cmake).
_PAGE = "tools/ui/dist"


def for_build(build: Build, program: Path, echo: Echo, *, flags: Sequence[str] = (), page: Path | None = None) -> Path:
    """Compile upstream's target that ``program`` is named after; its folder appears whole or not at all.

    ``flags`` are those beyond the build's own. ``page``: a folder of web pages to compile into ``llama-server``.
    Raises PatchError as ``cmake.compiled``, and Unable for a build of another series than the one here.
    """
    manifest = build.manifest or {}
    source = _source(build)
    chosen_flags = tuple(sorted({*manifest["flags"], *flags}))
    added = {_PAGE: page} if page else {}
    folder = program.parent
    with cmake.compiled(source.folder, source.commit, chosen_flags, [program.name], echo, added) as out:
        if not program.is_file():  # another process may have made it while we waited
            with cmake.disk_full_explained(folder.parent), shelf.whole(folder) as temporary:
                for names in (*cmake.LIBRARIES, "ggml*", "llama-common", f"{program.name}-impl"):
                    copy_libraries(out, temporary, names)
                _link_those_of(build, folder, temporary)
                shutil.copy2(out / program.name, temporary / program.name)
    return program


def _source(build: Build) -> SourceTree:
    manifest: dict[str, Any] = build.manifest or {}
    try:
        source = trees.patched() if manifest["patches"] else trees.unpatched(manifest["upstream_commit"])
        fits = source.tree == manifest["tree"] and bool(manifest["flags"])
    except KeyError:
        raise PatchError(f"The manifest of {build.id} does not say what it was made of: build anew.") from None
    if not fits:
        raise Unable(
            f"{build.id} is of another version of the patch series: 'llm kvsplit backend build' makes one of this version."
        )
    return source


def _link_those_of(build: Build, folder: Path, temporary: Path) -> None:
    """In the place of a library that the build holds, byte for byte, a link to that; so the program runs on the very same."""
    assert build.folder is not None
    for name, digest in (build.manifest or {})["libraries"].items():
        copy = temporary / name
        if copy.is_file() and files.sha256(copy) == digest:
            copy.unlink()
            copy.symlink_to(os.path.relpath(build.folder / name, folder))
