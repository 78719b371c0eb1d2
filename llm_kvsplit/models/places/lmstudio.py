"""LM Studio: PUBLISHER/REPO/FILE.gguf in its folder of models.

~/.lmstudio-home-pointer names its home, else it is ~/.cache/lm-studio (older) or ~/.lmstudio; ``downloadsFolder`` of
settings.json there moves the models. Source: findLMStudioHome.ts of lmstudio.js, importCmd.ts of lms, LM Studio's
documentation (import-model). Read, not met.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..browse import home, places_below, read_json, read_text
from ..place import Fault, Place

PROGRAM = "LM Studio"


def places() -> Iterator[Place | Fault]:
    homes = [home() / ".lmstudio", home() / ".cache/lm-studio"]
    pointer = home() / ".lmstudio-home-pointer"
    named = read_text(pointer)
    if isinstance(named, Fault):
        yield named
    elif named and named.strip():
        homes.insert(0, Path(named.strip()))
    for each in dict.fromkeys(homes):
        folders = [each / "models"]
        settings = read_json(each / "settings.json")
        if isinstance(settings, Fault):
            yield settings
        elif settings and isinstance(moved := settings.get("downloadsFolder"), str) and moved:
            folders.insert(0, Path(moved))
        for folder in dict.fromkeys(folders):
            yield from places_below(PROGRAM, folder)
