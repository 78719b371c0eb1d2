"""Which build of llama.cpp's libraries to load: one of the patch series' builds, or the bindings' own.

A *backend build* is a folder ``backends/<id>/`` with the shared libraries and a ``manifest.json`` that
``kvsplit-patch build`` writes last, so a folder without one is not a build. The bindings may be installed without a
library of their own; then the first question makes a build (``first_build.py``). The choice is made once a process,
since a loaded library stays.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import KvsplitError
from .paths import backends_dir

STOCK = "stock"
#: No library at all: the bindings came without one, and no build has been made yet.
NONE = "none"


@dataclass(frozen=True)
class Backend:
    #: A build's id, "stock" for the libraries that came with the bindings, "custom" for LLAMA_CPP_LIB_PATH, or "none".
    id: str
    #: Where the libraries are; None for stock and for none.
    folder: Path | None = None
    manifest: dict[str, Any] | None = None
    #: Why a build that was asked for, or is there, is not the one chosen; one sentence.
    note: str = ""

    @property
    def patched(self) -> bool:
        """Whether it is a build of the patch series."""
        return bool(self.manifest and self.manifest.get("features"))


def bindings_version() -> str:
    return version("llama-cpp-python")


def stock_folder() -> Path | None:
    """Where the bindings' own library lies; None where they were installed without one."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    names = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")
    return folder if any((folder / name).is_file() for name in names) else None


def builds() -> list[Backend]:
    """Every finished build, newest first. What cannot be read is left out; ``doctor`` names it."""
    found = []
    for manifest_file in backends_dir().glob("*/manifest.json"):
        try:
            manifest = json.loads(manifest_file.read_text())
            created = str(manifest["created"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append((created, Backend(manifest_file.parent.name, manifest_file.parent, manifest)))
    return [build for _, build in sorted(found, key=lambda pair: pair[0], reverse=True)]


def misfit(build: Backend) -> str:
    """Why a build cannot serve these bindings; empty when it can."""
    assert build.manifest is not None and build.folder is not None
    built_for, have = build.manifest.get("bindings_version"), bindings_version()
    if built_for != have:
        return f"build {build.id} was made for llama-cpp-python {built_for} and {have} is installed"
    if build.manifest.get("abi") == "mismatch":
        return f"build {build.id} lays out its structures differently from llama-cpp-python {have}"
    missing = [name for name in build.manifest.get("libraries", {}) if not (build.folder / name).is_file()]
    if missing:
        return f"build {build.id} lacks {', '.join(missing)}"
    return ""


def active_file() -> Path:
    """What ``llm kvsplit backend use`` writes: a build's id, or "stock"."""
    return backends_dir() / "active"


#: What this process has loaded.
_loaded: Backend | None = None


def current() -> Backend:
    """The library this process has loaded, or would load."""
    return _loaded or choose()


def choose() -> Backend:
    """The person's choice, else the newest build that fits the bindings, else the bindings' own, else none."""
    custom = os.environ.get("LLAMA_CPP_LIB_PATH")
    if custom:
        return Backend("custom", Path(custom))
    wanted = active_file().read_text().strip() if active_file().is_file() else ""
    stock = stock_folder() is not None
    if wanted == STOCK and stock:
        return Backend(STOCK)
    note = ""
    for build in builds():
        if wanted not in ("", STOCK, build.id):
            continue
        reason = misfit(build)
        if not reason:
            return build
        note = note or f"{reason}; 'llm kvsplit backend build' makes one that fits."
    if wanted and not note:
        note = f"backend build {wanted} is gone; 'llm kvsplit backend list' shows what there is."
    return Backend(STOCK if stock else NONE, note=note)


def ensure() -> Backend:
    """The library to load from now on: ``choose()``, after a build was made where there is none, and after it was tried.

    Raises KvsplitError for a library that cannot be had, or cannot be used on this machine.
    """
    from . import first_build, probe

    global _loaded
    if _loaded is not None:
        return _loaded
    chosen = choose()
    if chosen.id == NONE:
        first_build.make()
        chosen = choose()
        if chosen.id == NONE:
            raise KvsplitError(f"The build that was made cannot be used: {chosen.note}")
    result = probe.result(chosen)
    if not result.usable:
        raise KvsplitError(f"{describe(chosen)} cannot be used here: {result.reason}. {_next_step(chosen)}")
    _loaded = chosen
    return chosen


def describe(chosen: Backend) -> str:
    if chosen.id == STOCK:
        return f"The llama.cpp library of llama-cpp-python {bindings_version()}"
    return f"The llama.cpp library in {chosen.folder}"


def load_error(chosen: Backend, ex: BaseException) -> KvsplitError:
    return KvsplitError(f"{describe(chosen)} could not be loaded: {ex}. {_next_step(chosen)}")


def _next_step(chosen: Backend) -> str:
    if chosen.id == STOCK:
        return (
            'Rebuild it for this machine: CMAKE_ARGS="-DGGML_NATIVE=OFF" '
            "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
        )
    if chosen.id == "custom":
        return "Unset LLAMA_CPP_LIB_PATH, or point it at libraries built on this machine."
    return "Build it anew with 'llm kvsplit backend build', or go back with 'llm kvsplit backend use stock'."
