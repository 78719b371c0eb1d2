"""What a map will do to a model's predictions, from one measurement a side and a few of the whole model.

A KL divergence goes with the square of what is changed. So how much worse a coarser type is follows from its squared error
on the rows in the cache, which takes no run of the model. How much of an error a side bears is measured, in one type. The
sum of all layers is measured too, since it need not be the sum of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import KvsplitError
from ..kvtypes import F16, Cache, CachePair, CacheType
from .sides import Side, layer_map

if TYPE_CHECKING:
    from ..engine.context import Context

#: A type -> its squared error, as a share of the squares.
Errors = dict[CacheType, float]

#: A side counts for at least this share of what its kind does on average. A difference of two means can be below zero, and
#: what bears nearly anything on two windows ruins one of some thousand predictions on others (docs/evidence/tune.md).
_LEAST_SHARE = 0.2
_LEAST = 1e-12

_ROWS, _SEED = 4096, 0


@dataclass(frozen=True)
class Plan:
    """What is measured before anything is predicted."""

    n_layer: int
    sides: tuple[Side, ...]
    types: tuple[CacheType, ...]

    @property
    def probe(self) -> CacheType:
        """The coarsest type: what it does shows best beside the noise of quantized weights."""
        return self.types[-1]

    @property
    def finer(self) -> CacheType:
        """The best type of the next number of bits, which finer ones are predicted from."""
        bits = min((each.bits for each in self.types[1:] if each.bits > self.probe.bits), default=self.probe.bits)
        return next(each for each in self.types if each.bits == bits)

    def of_side(self, side: Side) -> Cache:
        return layer_map(self.n_layer, {side: self.probe})

    def of_kind(self, kind: str, cache_type: CacheType) -> Cache:
        """All layers' keys, or values."""
        return CachePair(cache_type, F16) if kind == "k" else CachePair(F16, cache_type)

    def caches(self) -> list[Cache]:
        whole = [self.of_kind(kind, each) for kind in "kv" for each in dict.fromkeys((self.finer, self.probe))]
        return [*whole, *map(self.of_side, self.sides)]


def row_errors(context: Context, plan: Plan) -> list[Errors]:
    """Of each side what each type makes of the rows in ``context``, an f16 cache with tokens in it.

    Where llama.cpp's state is not that of a plain cache, normal values stand for the rows.
    """
    from ..engine import rows

    try:
        state = rows.of_context(context)
    except KvsplitError:
        state = None
    if state is None or len(state.k) != plan.n_layer:  # some layers have no cache of their own
        normal = np.random.default_rng(_SEED).standard_normal((_ROWS, 64), np.float32)
        return [_errors(normal, plan.types)] * len(plan.sides)
    every = []
    for side in plan.sides:
        shape, keys = context.weights.header.layers[side.layer], side.name == "k"
        width = rows.rotation(shape.head_dim_k if keys else shape.head_dim_v, keys=keys)
        stored = (state.k if keys else state.v)[side.layer]
        every.append(_errors(rows.rotated(rows.values(stored), width), plan.types))
    return every


def _errors(values: np.ndarray, types: Sequence[CacheType]) -> Errors:
    """Squared errors as shares of the squares, by ggml's own quantizers."""
    from ..engine import rows

    squares = float(np.square(values).sum())
    return {
        each: 0.0 if each is F16 else float(np.square(rows.rounded(values, each) - values).sum()) / squares
        for each in types
    }


def damages(plan: Plan, damage: Callable[[Cache], float], errors: Sequence[Errors]) -> list[dict[CacheType, float]]:
    """Of each side what each type does, in nats. ``damage`` says what was measured of a cache.

    A side's damage goes with the squared error of its rows. All sides of a kind together do what was measured of them,
    in the coarsest type and in the next finer one, which those finer still follow.
    """
    shares = _shares(plan, damage)
    relative = [
        {each: share * row[each] / row[plan.probe] for each in plan.types} for share, row in zip(shares, errors)
    ]
    scale = {}
    for kind in "kv":
        for each in (plan.finer, plan.probe):
            total = sum(row[each] for side, row in zip(plan.sides, relative) if side.name == kind)
            scale[kind, each] = max(damage(plan.of_kind(kind, each)), 0.0) / (total or 1.0)

    def measured(cache_type: CacheType) -> CacheType:
        return plan.probe if cache_type.bits == plan.probe.bits else plan.finer

    return [
        {each: row[each] * scale[side.name, measured(each)] for each in plan.types}
        for side, row in zip(plan.sides, relative)
    ]


def _shares(plan: Plan, damage: Callable[[Cache], float]) -> list[float]:
    """Of each side its part in what all layers' keys, or values, do in the coarsest type."""
    each = [damage(plan.of_side(side)) for side in plan.sides]
    kept = []
    for side, value in zip(plan.sides, each):
        same = [other for its, other in zip(plan.sides, each) if its.name == side.name]
        kept.append(max(value, _LEAST_SHARE * sum(same) / len(same), _LEAST))
    totals = {kind: sum(value for side, value in zip(plan.sides, kept) if side.name == kind) for kind in "kv"}
    return [value / totals[side.name] for side, value in zip(plan.sides, kept)]
