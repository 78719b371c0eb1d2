"""Make a *backend build*: one folder of shared libraries with a manifest, for the plugin to load.

A build's id comes from what goes in: tree, flags, compiler, bindings version. The same id is never built twice, and
a folder appears under ``backends_dir()`` only when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_kvsplit.builds import shelf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir

from . import cmake
from ..series import trees
from .abi import mismatches
from ..echo import Echo
from ..errors import Unable
from .libraries import copy_libraries, marker
from ..paths import cache_dir
from ..series.trees import SourceTree

SCHEMA = 1


def bindings_version() -> str:
    """The installed llama-cpp-python's version. Raises Unable without one."""
    try:
        return shelf.bindings_version()
    except KvsplitError as missing:
        raise Unable(missing.message) from None


def build_id(source: SourceTree, flags: Sequence[str], compiler: str, bindings: str) -> str:
    """A name that a person can tell apart, and the hash of everything that decides the bytes."""
    inputs = "\n".join([source.tree, *flags, compiler, bindings])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:10]
    kind = "kvsplit" if source.patches else "unpatched"
    return f"{bindings}-{kind}-{source.commit[:7]}-{digest}"


def build(source: SourceTree, flags: Sequence[str], echo: Echo) -> Path:
    """The backend build of ``source``, made if it is not there; returns its folder.

    Raises PatchError without a compiler or cmake, on a full disk, or with the compiler's first error.
    """
    bindings = bindings_version()
    toolchain = cmake.find_toolchain()
    identity = build_id(source, flags, toolchain.compiler, bindings)
    folder = backends_dir() / identity
    if (folder / "manifest.json").is_file():
        echo(f"{identity} is already built.")
        return folder
    with cmake.compiled(source.folder, source.commit, flags, cmake.LIBRARIES, echo) as out:
        if not (folder / "manifest.json").is_file():  # it may be there now: another process made it while we waited
            with cmake.disk_full_explained(folder.parent), shelf.whole(folder) as temporary:
                manifest = {
                    "schema": SCHEMA,
                    "id": identity,
                    **_describe(source, temporary, out),
                    "flags": list(flags),
                    "compiler": toolchain.compiler,
                    "bindings_version": bindings,
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
                (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def for_bindings(echo: Echo, *, cuda: bool = False, vulkan: bool = False) -> Path:
    """The series built for the installed bindings, for the plugin's first question. Raises PatchError."""
    # What the installed bindings vendor, not the newest base of the series: their structures must match.
    return build(trees.patched(bindings_version()), cmake.flags(cuda=cuda, vulkan=vulkan), echo)


def _describe(source: SourceTree, folder: Path, out: Path) -> dict[str, Any]:
    """Copy the libraries into ``folder``, ask them what they are, and see whether the bindings fit."""
    libraries: dict[str, str] = {}
    for names in (*cmake.LIBRARIES, "ggml*"):
        libraries |= copy_libraries(out, folder, names)
    info = marker(folder)
    misfits = mismatches(source.folder, folder)
    return {
        "upstream_commit": source.commit,
        "upstream_tag": source.tag,
        "tree": source.tree,
        "series_version": info["series"] if info else shelf.STOCK,
        "features": info["features"] if info else [],
        "patches": list(source.patches),
        "abi": "mismatch" if misfits else "ok",
        "abi_mismatches": [str(mismatch) for mismatch in misfits],
        "libraries": libraries,
    }


def tools(source: SourceTree, flags: Sequence[str], echo: Echo, extra: Sequence[str] = ()) -> Path:
    """Upstream's programs with their libraries, for ``smoke`` and ``optests``; a cached folder like a build's."""
    compiler = cmake.find_toolchain().compiler
    names = sorted({*cmake.TOOLS, *extra})
    folder = cache_dir() / "tools" / build_id(source, [*flags, *names], compiler, "tools")
    if (folder / "manifest.json").is_file():
        return folder
    targets = [*cmake.LIBRARIES, *names]
    with cmake.compiled(source.folder, source.commit, flags, targets, echo) as out:
        if not (folder / "manifest.json").is_file():
            with cmake.disk_full_explained(folder.parent), shelf.whole(folder) as temporary:
                manifest = {"tree": source.tree, "libraries": copy_libraries(out, temporary)}
                for name in names:
                    shutil.copy2(out / name, temporary / name)
                (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder
