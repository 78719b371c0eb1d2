"""Jan: llamacpp/models/ID/model.yml in its data folder, whose ``model_path`` leads from there to the file.

The data folder is JAN_DATA_FOLDER, or what settings.json says, or Jan/data among the user's data. Older versions kept
the files in models/, and everything in ~/jan. Source: paths.rs, commands.rs and models.rs (src-tauri/src/core/app) and
index.ts (extensions/llamacpp-extension) of Jan. Read, not met.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..browse import home, places_below, read_json, read_text, unreadable
from ..place import Fault, Place

PROGRAM = "Jan"


def places() -> Iterator[Place | Fault]:
    import platformdirs

    root = Path(os.environ.get("JAN_DATA_ROOT") or platformdirs.user_data_path(roaming=True))
    folders = [root / "Jan/data", home() / "jan"]
    settings = read_json(root / "Jan/settings.json")
    if isinstance(settings, Fault):
        yield settings
    elif settings and isinstance(moved := settings.get("data_folder"), str) and Path(moved).is_absolute():
        folders.insert(0, Path(moved))
    if override := os.environ.get("JAN_DATA_FOLDER"):
        folders.insert(0, Path(override))
    for folder in dict.fromkeys(folders):
        yield from _registered(folder)
        yield from places_below(PROGRAM, folder / "llamacpp/models")
        yield from places_below(PROGRAM, folder / "models")


def _registered(folder: Path) -> Iterator[Place | Fault]:
    models = folder / "llamacpp/models"
    for described, _, names in os.walk(models):
        if "model.yml" not in names:
            continue
        file = Path(described, "model.yml")
        path = _model_path(file)
        if isinstance(path, Fault):
            yield path
        elif path:
            name = Path(described).relative_to(models).as_posix()
            if os.path.isfile(folder / path):
                yield Place(PROGRAM, name, folder / path)
            else:
                yield Fault(file, f"names {folder / path}, which is not there or may not be read")


def _model_path(file: Path) -> str | Fault | None:
    import yaml

    text = read_text(file)
    if not isinstance(text, str):
        return text
    try:
        described = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        return unreadable(file, error)
    path = described.get("model_path") if isinstance(described, dict) else None
    return path if isinstance(path, str) else None
