"""llama.cpp's own cache: GGUF files in one folder, named OWNER_REPO_FILE.gguf.

Since 2026 llama.cpp uses Hugging Face's layout and folder instead, in LLAMA_CACHE where that is set. Source:
fs_get_cache_directory in common.cpp, get_cache_directory in hf-cache.cpp, download.cpp. Read, not met.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..browse import places_below
from ..place import Fault, Place
from . import huggingface

PROGRAM = "llama.cpp"


def places() -> Iterator[Place | Fault]:
    import platformdirs

    if override := os.environ.get("LLAMA_CACHE"):
        yield from huggingface.cache(Path(override), PROGRAM)
        for each in places_below(PROGRAM, Path(override)):
            # What an older llama.cpp put there.
            if not each.path.relative_to(override).parts[:1][0].startswith("models--"):
                yield each
    else:
        yield from places_below(PROGRAM, platformdirs.user_cache_path() / "llama.cpp")
