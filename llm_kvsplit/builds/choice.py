"""Which library to load: one of the builds, or llama-cpp-python's own.

llama-cpp-python may be installed without a library of its own; then the first question makes a build
(``first_build.py``). The choice is made once a process, since a loaded library stays.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import KvsplitError
from .shelf import CUSTOM, NONE, STOCK, Build, active, bindings_version, builds, custom, misfit, stock_folder


class Unusable(KvsplitError):
    """A library cannot be used here, for a ``reason``."""

    def __init__(self, chosen: Build, reason: str) -> None:
        super().__init__(f"{describe(chosen)} cannot be used here: {reason}. {_next_step(chosen)}")
        self.reason = reason


#: What this process has loaded.
_loaded: Build | None = None


def current() -> Build:
    """The library this process has loaded, or would load."""
    return _loaded or choose()


def choose() -> Build:
    """The person's choice, else the newest build that can be used, else llama-cpp-python's library, else none."""
    if folder := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return custom(Path(folder))
    wanted = active()
    stock = stock_folder() is not None
    if wanted == STOCK and stock:
        return Build(STOCK)
    known = builds()
    note = ""
    if wanted not in ("", STOCK) and wanted not in [build.id for build in known]:
        note = f"Build {wanted} is gone; 'llm kvsplit backend list' shows what there is."
    for build in sorted(known, key=lambda build: build.id != wanted):  # the choice first, then the newest
        reason = misfit(build)
        if not reason:
            return replace(build, note=note)
        note = note or f"Build {build.id} cannot be used: {reason}; 'llm kvsplit backend build' makes one that can."
    return Build(STOCK if stock else NONE, note=note)


def ensure() -> Build:
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
        raise Unusable(chosen, result.reason)
    _loaded = chosen
    return chosen


def extra_bufts() -> bool:
    """Whether models may be loaded with ggml's extra buffer types here, see ``probe``. Raises as ``ensure`` does."""
    from . import probe

    return probe.result(ensure()).extra_bufts


def describe(chosen: Build) -> str:
    if chosen.id == STOCK:
        return f"The llama.cpp library of llama-cpp-python {bindings_version()}"
    return f"The llama.cpp library in {chosen.folder}"


def _next_step(chosen: Build) -> str:
    if chosen.id == STOCK:
        return (
            'Rebuild it for this machine: CMAKE_ARGS="-DGGML_NATIVE=OFF" '
            "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
        )
    if chosen.id == CUSTOM:
        return "Unset LLAMA_CPP_LIB_PATH, or point it at libraries built on this machine."
    back = ", or go back with 'llm kvsplit backend use stock'" if stock_folder() else ""
    return f"Remove it with 'llm kvsplit backend remove {chosen.id}' and build it anew with 'llm kvsplit backend build'{back}."
