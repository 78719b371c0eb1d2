"""A map in a file of its own, to be taken over where the same model lies: what was asked, and what was measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files, gguf
from ..errors import KvsplitError
from ..kvtypes import LayerMap
from ..models.place import printable
from ..sessions import fingerprint

if TYPE_CHECKING:
    from .search import Figures, Outcome

VERSION = 1
_KIND = "llm-kvsplit layer map"
#: No honest recipe comes near it.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """What is read of a file: the map, and which model it is for."""

    model_sha256: str
    model_name: str
    layers: int
    kv_layers: str


def content_sha256(model: gguf.Gguf) -> str:
    """SHA-256 of the model's file, or, of a split model, of its files' sums one behind the other."""
    sums = [fingerprint.file_sha256(path) or "" for path in model.files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def write(file: Path, model: gguf.Gguf, outcome: Outcome, about: dict[str, Any]) -> None:
    """Raises KvsplitError when the disk refuses."""
    whole = {
        "kind": _KIND,
        "version": VERSION,
        "model": {**{key: about["model"][key] for key in ("name", "architecture", "weights", "layers")}}
        | {"sha256": content_sha256(model)},
        "kv_layers": str(outcome.layer_map),
        "goal": {"text": outcome.goal.text, "bytes": outcome.goal.budget, "limit": outcome.goal.limit},
        "f16_bytes": outcome.f16_bytes,
        "tuned": _figures(outcome.tuned),
        "pairs": [{"pair": str(each.cache), **_figures(each)} for each in outcome.pairs],
        **{key: about[key] for key in ("text", "machine", "backend", "settings", "made_by")},
    }
    try:
        files.write_whole(file, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise KvsplitError(f"{file} cannot be written ({error.strerror}): choose another place.") from error


def _figures(figures: Figures) -> dict[str, Any]:
    return {key: value for key, value in vars(figures).items() if key != "cache"}


def read(file: Path) -> Recipe:
    """Raises KvsplitError for what ``write`` did not write."""
    try:
        with file.open("rb") as source:
            data = source.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError("it is too large")
        whole = json.loads(data.decode())
        if not isinstance(whole, dict) or whole.get("kind") != _KIND:
            raise ValueError(f"it does not say that it is a {_KIND}")
        if whole.get("version") != VERSION:
            raise KvsplitError(
                f"{file} is of version {str(whole.get('version'))[:20]!r}, and this llm-kvsplit reads {VERSION}: tune the model here, or "
                "get the llm-kvsplit that wrote it."
            )
        model = whole["model"]
        recipe = Recipe(model["sha256"], model["name"], model["layers"], whole["kv_layers"])
        for value, kind in zip(vars(recipe).values(), (str, str, int, str)):
            if type(value) is not kind:
                raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    except OSError as error:
        raise KvsplitError(f"{file} cannot be read ({error.strerror}): give a file that --export wrote.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KvsplitError(
            f"{file} is no recipe that 'llm kvsplit tune --export' wrote ({error}): get it anew, or tune the model here."
        ) from error
    return recipe


def map_for(recipe: Recipe, file: Path, model: gguf.Gguf, name: str) -> LayerMap:
    """The recipe's map. Raises KvsplitError where it is another model's, or names what this model lacks."""
    if content_sha256(model) != recipe.model_sha256:
        raise KvsplitError(
            f"{file} is for another model: {name} has other bytes than the {printable(recipe.model_name[:80])} it was made with; "
            f"tune {name} itself."
        )
    try:
        layer_map = LayerMap.parse(recipe.kv_layers)
        named = sum(each.last + 1 - each.first for each in layer_map.ranges)
        if recipe.layers != model.n_layer or named != model.n_layer:
            raise ValueError(f"it names {named} of the model's {model.n_layer} layers")
        layer_map.pairs(model.n_layer)
    except ValueError as error:
        raise KvsplitError(f"The map in {file} does not fit {name}: {error}; get the file anew.") from None
    if reason := gguf.refusal(model, layer_map):
        raise KvsplitError(f"The map in {file} cannot be used: {name} {reason}.")
    return layer_map
