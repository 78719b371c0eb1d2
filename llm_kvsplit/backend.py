"""Which build of llama.cpp's libraries to load: one of the patch series' builds, or the bindings' own.

A *backend build* is a folder ``backends/<id>/`` with the shared libraries and a ``manifest.json`` that
``kvsplit-patch build`` writes last, so a folder without one is not a build. The bindings read
``LLAMA_CPP_LIB_PATH`` when they are imported (llama_cpp/llama_cpp.py), so the choice is made once a process.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import KvsplitError
from .paths import backends_dir

STOCK = "stock"


@dataclass(frozen=True)
class Backend:
    #: A build's id, "stock" for the libraries that came with the bindings, "custom" for LLAMA_CPP_LIB_PATH.
    id: str
    #: Where the libraries are; None for stock.
    folder: Path | None = None
    manifest: dict[str, Any] | None = None
    #: Why a build that was asked for, or is there, is not the one chosen; one sentence.
    note: str = ""


def bindings_version() -> str:
    return version("llama-cpp-python")


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


#: The build this process has pointed the bindings at; they read the variable once.
_prepared: Backend | None = None


def current() -> Backend:
    """The build this process has loaded, or would load."""
    return _prepared or choose()


def choose() -> Backend:
    """The person's choice, else the newest build that fits the bindings, else stock."""
    custom = os.environ.get("LLAMA_CPP_LIB_PATH")
    if custom and not (_prepared and str(_prepared.folder) == custom):
        return Backend("custom", Path(custom))
    wanted = active_file().read_text().strip() if active_file().is_file() else ""
    if wanted == STOCK:
        return Backend(STOCK)
    note = ""
    for build in builds():
        if wanted and build.id != wanted:
            continue
        reason = misfit(build)
        if not reason:
            return build
        note = note or f"{reason}; 'llm kvsplit backend build' makes one that fits."
    if wanted and not note:
        note = f"backend build {wanted} is gone; 'llm kvsplit backend list' shows what there is."
    return Backend(STOCK, note=note)


def prepare(chosen: Backend) -> None:
    """Point the bindings at ``chosen``, after it was tried in a child process if it is new here.

    Raises KvsplitError for a library that cannot be used on this machine.
    """
    from . import probe

    if "llama_cpp" in sys.modules and chosen.folder is not None and os.environ.get("LLAMA_CPP_LIB_PATH") is None:
        raise KvsplitError(
            f"llama_cpp was imported before backend build {chosen.id} could be chosen: start a new process, or set "
            f"LLAMA_CPP_LIB_PATH={chosen.folder}."
        )
    result = probe.result(chosen)
    if not result.usable:
        raise KvsplitError(f"{describe(chosen)} cannot be used here: {result.reason}. {_next_step(chosen)}")
    if chosen.folder is not None:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(chosen.folder)
    global _prepared
    _prepared = chosen


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
