"""A cache type for each layer: what the patch series adds to llama.cpp for that."""

from __future__ import annotations

import ctypes

from ..builds import choice
from ..errors import KvsplitError
from ..kvtypes import CacheType, LayerMap
from . import library
from .weights import Weights

#: Its name among the features of a build.
FEATURE = "kv-layers"
_OTHERWISE = "Choose other kv_layers, or leave them out."


class Refused(KvsplitError):
    """The library cannot store the layers so; ``cause`` is why, as a clause."""

    def __init__(self, layer_map: LayerMap, cause: str, step: str) -> None:
        super().__init__(f"The layer map {layer_map} cannot be used: {cause}. {step}")
        self.cause = cause


def supported() -> bool:
    """Whether the library can give layers types of their own."""
    return hasattr(library.load(), "llama_kvsplit_set_layers")


def hand_over(weights: Weights, layer_map: LayerMap) -> None:
    """Have the next context that this thread makes on ``weights`` store its layers so.

    Raises Refused for a library that cannot, and for a map that does not fit the model.
    """
    if not supported():
        library_name = choice.describe(choice.current())
        raise Refused(
            layer_map,
            f"{library_name[0].lower()}{library_name[1:]} lacks {FEATURE} of the patch series",
            "Get a build that has it with 'llm kvsplit backend install', or leave out kv_layers.",
        )
    try:
        pairs = layer_map.pairs(weights.header.n_layer)
    except ValueError as error:
        raise Refused(layer_map, str(error), _OTHERWISE) from None
    keys, values = _ids([pair.k for pair in pairs]), _ids([pair.v for pair in pairs])
    if refusal := weights.lib.llama_kvsplit_set_layers(weights.pointer, keys, values, len(pairs)):
        raise Refused(layer_map, refusal.decode("utf-8", "replace"), _OTHERWISE)


def _ids(types: list[CacheType]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(types))(*(cache_type.ggml_id for cache_type in types))
