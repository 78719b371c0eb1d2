"""Definitions that have all that the plugin uses, and builds that carry them; no compiler, no llama.cpp."""

import hashlib
import json
from pathlib import Path

from llm_kvsplit.builds import definitions, interface
from llm_kvsplit.builds.definitions import Definitions, Field, Struct


def whole(**changed) -> Definitions:
    """All that is used, and a field of each structure that is not. ``changed``: other parts of them."""
    structs = {}
    for name, fields in interface.FIELDS.items():
        placed = {field: Field(8 * at, kind) for at, (field, kind) in enumerate(fields.items())}
        structs[name] = Struct(8 * len(fields) + 8, {**placed, "unused": Field(8 * len(fields), "int32")})
    constants = {name: 1 if value is None else value for name, value in interface.CONSTANTS.items()}
    parts = {"functions": dict(interface.FUNCTIONS), "callbacks": dict(interface.CALLBACKS)}
    return Definitions(**{**parts, "structs": structs, "constants": constants, **changed})


def without(function: str) -> Definitions:
    return whole(functions={name: each for name, each in interface.FUNCTIONS.items() if name != function})


def a_build(folder: Path, created="2026-11-22T00:00:00+00:00", defined: Definitions | None = None, **manifest) -> None:
    """A folder as a build leaves it; its library is a few bytes."""
    folder.mkdir(parents=True)
    (folder / "libllama.so").write_bytes(b"library")
    bindings = definitions.text(defined or whole())
    (folder / "bindings.json").write_text(bindings)
    parts = {
        "id": folder.name,
        "created": created,
        "features": ["kvq-args"],
        "bindings": hashlib.sha256(bindings.encode()).hexdigest(),
        "libraries": {"libllama.so": hashlib.sha256(b"library").hexdigest()},
    }
    (folder / "manifest.json").write_text(json.dumps({**parts, **manifest}))
