"""What a map will do to a model's predictions, from one measurement a side and a few of the whole model.

Turned rows are nearly normal in every layer, so how much worse a coarser type is does not depend on the layer: the
squared error says it, and a KL divergence goes with the square of what is changed. How much a layer bears does depend on
the layer, and is measured. The sum of all layers is measured too, since it need not be the sum of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..kvtypes import F16, Cache, CachePair, CacheType
from .sides import Side, layer_map

#: A side counts for at least this share of what its kind does on average: a difference of two means can be below zero.
_LEAST_SHARE = 0.05

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


def squared_errors(types: Sequence[CacheType]) -> dict[CacheType, float]:
    """Of each type the squared error as a share of the squares, by ggml's own quantizer on normal values."""
    from ..engine import rows

    values = np.random.default_rng(_SEED).standard_normal((_ROWS, 64), np.float32)
    errors = {F16: 0.0}
    for each in types[1:]:
        errors[each] = float(np.square(rows.rounded(values, each) - values).sum() / np.square(values).sum())
    return errors


def damages(
    plan: Plan, damage: Callable[[Cache], float], errors: dict[CacheType, float]
) -> list[dict[CacheType, float]]:
    """Of each side what each type does, in nats. ``damage`` says what was measured of a cache."""
    whole = {
        (kind, each): max(damage(plan.of_kind(kind, each)), 0.0) for kind in "kv" for each in (plan.finer, plan.probe)
    }
    shares = _shares(plan, damage)

    def of_all(kind: str, cache_type: CacheType) -> float:
        measured = plan.probe if cache_type.bits == plan.probe.bits else plan.finer
        return whole[kind, measured] * errors[cache_type] / errors[measured]

    return [{each: shares[side] * of_all(side.name, each) for each in plan.types} for side in plan.sides]


def _shares(plan: Plan, damage: Callable[[Cache], float]) -> dict[Side, float]:
    """Of each side its part in what all layers' keys, or values, do."""
    shares: dict[Side, float] = {}
    for kind in "kv":
        each = {side: damage(plan.of_side(side)) for side in plan.sides if side.name == kind}
        mean = sum(each.values()) / max(1, len(each))
        kept = {side: max(value, _LEAST_SHARE * mean, 1e-12) for side, value in each.items()}
        shares |= {side: value / sum(kept.values()) for side, value in kept.items()}
    return shares
