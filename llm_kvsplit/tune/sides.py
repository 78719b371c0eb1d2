"""What a layer map decides: the type of each layer's keys and of its values. One of the two in one layer is a *side*."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import fit, gguf
from ..errors import KvsplitError
from ..kvtypes import F16, Q8_0, TYPES, Cache, CachePair, CacheType, LayerMap

if TYPE_CHECKING:
    from ..engine.weights import Weights

_F16 = CachePair(F16, F16)


@dataclass(frozen=True)
class Side:
    layer: int
    #: "k" or "v".
    name: str
    #: Values that the cache holds of it, in all its cells.
    values: int

    def bytes(self, cache_type: CacheType) -> int:
        return self.values // cache_type.block * cache_type.bytes_per_block

    def __str__(self) -> str:
        return f"layer {self.layer}, {'keys' if self.name == 'k' else 'values'}"


def of_model(weights: Weights, n_ctx: int) -> list[Side]:
    """The sides that have a place in a cache of ``n_ctx`` tokens. ``weights`` may be simulated.

    llama.cpp says how large they are: sliding windows hold fewer cells, some layers have no cache of their own. Raises
    KvsplitError when it refuses.
    """
    n_layer = weights.header.n_layer
    whole = fit.footprint(weights, _F16, n_ctx).kv
    if weights.values_per_layer and not weights.n_swa:
        keys, values = (side[:n_layer] for side in weights.values_per_layer)
        cells, rest = divmod(whole, 2 * (sum(keys) + sum(values)) or 1)
        if not rest:
            return _sides((cells * k, cells * v) for k, v in zip(keys, values))
    # Of a side in q8_0 fewer bytes are allocated than in f16, by 15/16 of a byte a value.
    saved = []
    for layer in range(n_layer):
        pairs = CachePair(Q8_0, F16), CachePair(F16, Q8_0)
        maps = (LayerMap.of([pair if at == layer else _F16 for at in range(n_layer)]) for pair in pairs)
        saved.append(tuple((whole - fit.footprint(weights, each, n_ctx).kv) * 16 // 15 for each in maps))
    return _sides(saved)


def _sides(values: Iterable[Sequence[int]]) -> list[Side]:
    return [Side(at, name, n) for at, layer in enumerate(values) for name, n in zip("kv", layer) if n]


def bytes_of(sides: Sequence[Side], cache: Cache) -> int:
    """Bytes that ``cache`` takes of these sides."""
    pairs = cache.pairs(1 + max(side.layer for side in sides))
    return sum(side.bytes(getattr(pairs[side.layer], side.name)) for side in sides)


def layer_map(n_layer: int, types: dict[Side, CacheType]) -> LayerMap:
    """The map with these types; all other sides are f16."""
    by_place = {(side.layer, side.name): cache_type for side, cache_type in types.items()}
    pairs = [CachePair(by_place.get((at, "k"), F16), by_place.get((at, "v"), F16)) for at in range(n_layer)]
    return LayerMap.of(pairs)


def usable_types(weights: Weights, n_threads: int | None) -> tuple[CacheType, ...]:
    """The types that the library has, the model takes, and its device computes attention with; f16 is the first.

    Raises KvsplitError when llama.cpp cannot make such a cache.
    """
    from ..engine import library
    from ..engine.context import PADDING, Context, ContextOptions

    def place(cache_type: CacheType) -> str | None:
        context = Context(weights, ContextOptions(CachePair(cache_type, cache_type), PADDING, n_threads))
        try:
            return context.attention
        finally:
            context.close()

    usable = [F16]
    f16_place = place(F16)
    for each in TYPES[1:]:
        pair = CachePair(each, each)
        if library.lacking(pair) or gguf.refusal(weights.header, pair):
            continue
        if f16_place != "GPU" or place(each) == "GPU":
            usable.append(each)
    if len(usable) < 3:
        raise KvsplitError(
            f"{weights.options.path.name} takes {' and '.join(each.name for each in usable)} alone, so there is nothing to "
            "choose by layer."
        )
    return tuple(usable)
