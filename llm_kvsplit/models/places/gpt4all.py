"""GPT4All: GGUF files in the app's data folder, or in ~/.cache/gpt4all for its Python package and llm-gpt4all.

``modelPath`` in nomic.ai/GPT4All.ini moves the app's. Source: mysettings.cpp, modellist.cpp and main.cpp of GPT4All:
read, not met; where Qt puts such folders was not looked up. The package, gpt4all 2.8.2, was met.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..browse import home, places_below, read_text, unreadable
from ..place import Fault, Place

PROGRAM = "GPT4All"


def places() -> Iterator[Place | Fault]:
    import platformdirs

    folders = [platformdirs.user_data_path() / "nomic.ai/GPT4All", home() / ".cache/gpt4all"]
    settings = _config() / "nomic.ai/GPT4All.ini"
    moved = _model_path(settings)
    if isinstance(moved, Fault):
        yield moved
    elif moved:
        folders.insert(0, Path(moved))
    for folder in dict.fromkeys(folders):
        yield from places_below(PROGRAM, folder)


def _config() -> Path:
    """Where Qt keeps INI files; on macOS, too, that is ~/.config."""
    if sys.platform == "win32":
        import platformdirs

        return platformdirs.user_config_path(roaming=True)
    return Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config")


def _model_path(file: Path) -> str | Fault | None:
    text = read_text(file)
    if not isinstance(text, str):
        return text
    settings = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        settings.read_string(text)
    except configparser.Error as error:
        return unreadable(file, error)
    # Quoted where it has commas or semicolons; backslashes come in pairs.
    return (settings.get("General", "modelPath", fallback="") or "").strip('"').replace("\\\\", "\\")
