"""Make a *build*: a folder of shared libraries with their definitions and a manifest, for the plugin to load.

A build's id comes from what goes in: tree, flags, compiler, and what the plugin uses. The same id is never built twice,
a folder appears under ``backends_dir()`` only when it is whole, and no build that the plugin could not use gets there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_kvsplit import files
from llm_kvsplit.builds import definitions, interface, probe, shelf
from llm_kvsplit.builds.definitions import Definitions
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir

from ..echo import Echo
from ..errors import PatchError, Unable
from ..paths import cache_dir
from ..series import trees
from ..series.trees import SourceTree
from . import abi, cmake, headers
from .libraries import copy_libraries, marker

SCHEMA = 2


def bindings_version() -> str:
    """The installed llama-cpp-python's version. Raises Unable without one."""
    try:
        return shelf.bindings_version()
    except KvsplitError as missing:
        raise Unable(missing.message) from None


def build_id(source: SourceTree, flags: Sequence[str], compiler: str, *more: str) -> str:
    """A name that a person can tell apart, and the hash of everything that decides the bytes."""
    inputs = "\n".join([source.tree, *flags, compiler, *more])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:10]
    return f"{'kvsplit' if source.patches else 'unpatched'}-{source.commit[:7]}-{digest}"


def build(source: SourceTree, flags: Sequence[str], echo: Echo) -> Path:
    """The build of ``source``, made if it is not there; returns its folder.

    Raises PatchError without a compiler or cmake, on a full disk, with the compiler's first error, or where the plugin
    could not use the build.
    """
    toolchain = cmake.find_toolchain()
    identity = build_id(source, flags, toolchain.compiler, interface.digest())
    folder = backends_dir() / identity
    if shelf.there(folder):
        echo(f"{identity} is already built.")
        return folder
    defined = headers.of_tree(source.folder)
    if clauses := interface.faults(defined):  # known from the headers, before minutes of compiling
        raise PatchError(f"The plugin cannot use a build of llama.cpp {source.commit}: {interface.summary(clauses)}.")
    if clauses := interface.media_faults(defined):
        echo(f"Its libmtmd is not the one that the plugin knows, so it will take no attachments: {clauses[0]}.")
    with cmake.compiled(source.folder, source.commit, flags, cmake.LIBRARIES, echo) as out:
        if not shelf.there(folder):  # it may be there now: another process made it while we waited
            with cmake.disk_full_explained(folder.parent), shelf.whole(folder) as temporary:
                manifest = {
                    "schema": SCHEMA,
                    "id": identity,
                    **_describe(source, defined, temporary, out),
                    "flags": list(flags),
                    "compiler": toolchain.compiler,
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
                (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
                if fault := probe.fault_of(temporary):
                    raise PatchError(
                        f"What was compiled of llama.cpp {source.commit} cannot be used here, and is not kept: {fault}. "
                        "Try another compiler (CXX), and report it."
                    )
    return folder


def for_plugin(echo: Echo, *, cuda: bool = False, vulkan: bool = False) -> Path:
    """The series built on its base, for the plugin's first question. Raises PatchError."""
    return build(trees.patched(), cmake.flags(cuda=cuda, vulkan=vulkan), echo)


def _describe(source: SourceTree, defined: Definitions, folder: Path, out: Path) -> dict[str, Any]:
    """Copy the libraries into ``folder``, write their definitions beside them, and ask them what they are."""
    libraries: dict[str, str] = {}
    for names in (*cmake.LIBRARIES, "ggml*"):
        libraries |= copy_libraries(out, folder, names)
    info = marker(folder)
    if missing := abi.not_exported(folder):
        raise PatchError(
            f"The plugin cannot use a build of llama.cpp {source.commit}: its libraries lack {', '.join(missing)}."
        )
    bindings = folder / shelf.BINDINGS
    bindings.write_text(definitions.text(defined))
    return {
        "upstream_commit": source.commit,
        "upstream_tag": source.tag,
        "tree": source.tree,
        "series_version": info["series"] if info else shelf.STOCK,
        "features": info["features"] if info else [],
        "patches": list(source.patches),
        "bindings": files.sha256(bindings),
        "libraries": libraries,
    }


def tools(source: SourceTree, flags: Sequence[str], echo: Echo, extra: Sequence[str] = ()) -> Path:
    """Upstream's programs with their libraries, for ``smoke`` and ``optests``; a cached folder like a build's."""
    compiler = cmake.find_toolchain().compiler
    names = sorted({*cmake.TOOLS, *extra})
    folder = cache_dir() / "tools" / f"tools-{build_id(source, [*flags, *names], compiler, 'tools')}"
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
