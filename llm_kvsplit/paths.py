"""Where things are kept: under llm's own user directory, and in a cache that may be deleted.

Nothing is made here: who reads finds nothing, and who writes makes the folder and says what went wrong.
"""

import os
from pathlib import Path


def user_dir() -> Path:
    """``kvsplit`` under llm's user directory (``LLM_USER_PATH`` is honoured)."""
    from llm import user_dir as llm_user_dir

    return llm_user_dir() / "kvsplit"


def registry_file() -> Path:
    return user_dir() / "models.json"


def models_dir() -> Path:
    """Where ``llm kvsplit download`` puts GGUF files."""
    return user_dir() / "models"


def backends_dir() -> Path:
    """One folder a build, see ``builds/shelf.py``; ``KVSPLIT_BUILDS`` names another place."""
    override = os.environ.get("KVSPLIT_BUILDS")
    return Path(override) if override else user_dir() / "backends"


def cache_dir() -> Path:
    """What can be made again: upstream's sources, compiler output, probe results.

    ``KVSPLIT_CACHE`` overrides the platform's cache folder.
    """
    override = os.environ.get("KVSPLIT_CACHE")
    if override:
        return Path(override)
    from platformdirs import user_cache_path

    return user_cache_path("llm-kvsplit")
