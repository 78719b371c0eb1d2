"""Which choice of each item does the least damage within a number of bytes: a multiple-choice knapsack.

Dynamic programming over the bytes is exact, and answers for every budget at once. A Lagrangian would be as quick, and
misses the maps that lie off the convex hull, which is where a budget mostly falls with seven types and few layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

#: Steps that the bytes are counted in, at most. A model whose layers are all alike needs some thousands and is solved
#: exactly; where more would be needed, bytes are rounded up, by at most a step an item.
_STEPS = 1 << 16


@dataclass(frozen=True)
class Frontier:
    """The least damage of every budget."""

    #: Bytes of a step.
    unit: int
    #: By number of steps; infinite where nothing fits.
    least: np.ndarray
    #: Of each item the steps of each choice.
    steps: tuple[np.ndarray, ...]
    #: Of each item, by number of steps, the choice that leads to ``least`` of the items up to it.
    taken: tuple[np.ndarray, ...]

    def best(self, budget: float) -> tuple[int, ...] | None:
        """The choice of each item with the least damage within ``budget`` bytes; None where nothing fits."""
        at = min(int(budget // self.unit), len(self.least) - 1)
        return self._choices(at) if at >= 0 and np.isfinite(self.least[at]) else None

    def smallest(self, limit: float) -> tuple[int, ...] | None:
        """The choices with the fewest bytes whose damage is at most ``limit``; None where there are none."""
        within = np.flatnonzero(self.least <= limit)
        return self._choices(int(within[0])) if len(within) else None

    def _choices(self, at: int) -> tuple[int, ...]:
        choices = []
        for steps, taken in zip(reversed(self.steps), reversed(self.taken)):
            choices.append(int(taken[at]))
            at -= int(steps[choices[-1]])
        return tuple(reversed(choices))


def frontier(costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]]) -> Frontier:
    """``costs`` (bytes) and ``damages`` of each choice of each item; both add up."""
    total = sum(max(item) for item in costs)
    unit = gcd(*(cost for item in costs for cost in item)) or 1
    unit *= max(1, -(-total // (unit * _STEPS)))
    steps = tuple(np.array([-(-cost // unit) for cost in item]) for item in costs)
    size = 1 + sum(int(item.max()) for item in steps)
    least, taken = np.zeros(size), []
    for item, harm in zip(steps, damages, strict=True):
        sums = np.full((len(item), size), np.inf)
        for row, cost, each in zip(sums, item, harm, strict=True):
            row[cost:] = least[: size - cost] + each
        taken.append(sums.argmin(axis=0).astype(np.uint8))
        least = sums.min(axis=0)
    return Frontier(unit, least, steps, tuple(taken))
