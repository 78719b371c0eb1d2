"""Make a *backend build*: one folder of shared libraries with a manifest, for the plugin to load.

A build's id comes from what goes in: tree, flags, compiler, bindings version. The same id is never built twice, and
a folder appears under ``backends_dir()`` only when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Sequence

from llm_kvsplit import files
from llm_kvsplit.builds import shelf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir

from . import cmake
from .cmake import Echo
from .errors import PatchError, Unable
from .failures import last_words
from .paths import cache_dir
from .trees import Source

SCHEMA = 1


def bindings_version() -> str:
    """The installed llama-cpp-python's version. Raises Unable without one."""
    try:
        return shelf.bindings_version()
    except KvsplitError as missing:
        raise Unable(missing.message) from None


def build_id(source: Source, flags: Sequence[str], compiler: str, bindings: str) -> str:
    """A name that a person can tell apart, and the hash of everything that decides the bytes."""
    inputs = "\n".join([source.tree, *flags, compiler, bindings])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:10]
    kind = "kvsplit" if source.patches else "unpatched"
    return f"{bindings}-{kind}-{source.commit[:7]}-{digest}"


def build(source: Source, flags: Sequence[str], echo: Echo) -> Path:
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
            with cmake.disk_full_told(folder.parent), shelf.whole(folder) as temporary:
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
    from . import trees

    # What the installed bindings vendor, not the newest base of the series: their structures must match.
    return build(trees.patched(bindings_version()), cmake.flags(cuda=cuda, vulkan=vulkan), echo)


def _describe(source: Source, folder: Path, out: Path) -> dict[str, Any]:
    """Copy the libraries into ``folder``, ask them what they are, and see whether the bindings fit."""
    from .abi import mismatches

    libraries = {}
    for names in (*cmake.LIBRARIES, "ggml*"):
        libraries |= copy_libraries(out, folder, names)
    info = marker(folder)
    found = mismatches(source.folder, folder)
    return {
        "upstream_commit": source.commit,
        "upstream_tag": source.tag,
        "tree": source.tree,
        "series_version": info["series"] if info else shelf.STOCK,
        "features": info["features"] if info else [],
        "patches": list(source.patches),
        "abi": "mismatch" if found else "ok",
        "abi_mismatches": [str(mismatch) for mismatch in found],
        "libraries": libraries,
    }


def tools(source: Source, flags: Sequence[str], echo: Echo, extra: Sequence[str] = ()) -> Path:
    """Upstream's programs with their libraries, for ``smoke`` and ``optests``; a cached folder like a build's."""
    compiler = cmake.find_toolchain().compiler
    names = sorted({*cmake.TOOLS, *extra})
    folder = cache_dir() / "tools" / build_id(source, [*flags, *names], compiler, "tools")
    if (folder / "manifest.json").is_file():
        return folder
    targets = [*cmake.LIBRARIES, *names]
    with cmake.compiled(source.folder, source.commit, flags, targets, echo) as out:
        if not (folder / "manifest.json").is_file():
            with cmake.disk_full_told(folder.parent), shelf.whole(folder) as temporary:
                manifest = {"tree": source.tree, "libraries": copy_libraries(out, temporary)}
                for name in names:
                    shutil.copy2(out / name, temporary / name)
                (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder


def copy_libraries(out: Path, folder: Path, names: str = "*") -> dict[str, str]:
    """Copy the shared libraries whose stems match the glob; returns file name -> SHA-256."""
    libraries = {}
    for file in sorted(out.iterdir()):
        if file.suffix in (".so", ".dylib", ".dll") and fnmatch(file.stem.removeprefix("lib"), names):
            shutil.copy2(file, folder / file.name)
            libraries[file.name] = files.sha256(file)
    return libraries


def library(folder: Path, name: str = "llama") -> Path:
    for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll"):
        if (folder / file).is_file():
            return folder / file
    raise PatchError(f"There is no {name} library in {folder}: remove the build and make it again.")


def marker(folder: Path) -> dict[str, Any] | None:
    """What ``llama_kvsplit_info`` of the built library says; None where it is absent.

    In a child process: a library stays loaded, and one that dies on this machine must not take us along.
    """
    code = (
        "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); info = getattr(lib, 'llama_kvsplit_info', None)\n"
        "if info: info.restype = ctypes.c_char_p; print(info().decode())"
    )
    said = subprocess.run([sys.executable, "-c", code, str(library(folder))], capture_output=True, text=True)
    if said.returncode:
        raise PatchError(f"The library that was built does not load: {last_words(said)}; please report it.")
    return json.loads(said.stdout) if said.stdout.strip() else None
