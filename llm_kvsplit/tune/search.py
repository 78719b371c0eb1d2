"""The map for a goal: searched by prediction, and corrected by measuring a few."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import KvsplitError
from ..kvtypes import F16, Cache, CachePair, CacheType, LayerMap
from . import knapsack, prediction
from .goal import Goal
from .prediction import Plan
from .runs import CHOSEN, HELD, Runs
from .sides import bytes_of, layer_map

#: Whether keys or values matter more in sum is where a prediction errs most, so maps with one of them weighed more by
#: this factor are measured as well.
_TILT = 1.5
#: Uniform pairs that are measured: those predicted to be best.
_PAIRS = 2
#: Maps that are measured for a limit, each nearer to it.
_TRIES = 5


@dataclass(frozen=True)
class Figures:
    """A cache, what it takes, and what it was measured to do, as [mean, low, high]."""

    cache: Cache
    bytes: int
    #: Damage in nats on the text that the map is chosen on: predicted, and measured.
    predicted: float
    chosen: list[float]
    #: On the other text: damage, KL divergence, and its 99.9th percentile.
    held: list[float]
    kl_mean: list[float]
    kl_999: list[float]


@dataclass(frozen=True)
class Outcome:
    goal: Goal
    layer_map: LayerMap
    tuned: Figures
    #: Pairs for all layers to compare with: the best within the same bytes, and the one that the goal names.
    pairs: tuple[Figures, ...]
    f16_bytes: int


class Search:
    """Everything that a goal is searched with. ``runs`` is what was and will be measured."""

    def __init__(self, runs: Runs, plan: Plan) -> None:
        self.runs, self.plan = runs, plan

    @functools.cached_property
    def damages(self) -> list[dict[CacheType, float]]:
        """Of each side what each type does, in nats: measured on first use."""
        self.runs.measure(CHOSEN, self.plan.caches(), "each layer's keys and values")
        with self.runs.evaluated() as context:
            errors = prediction.row_errors(context, self.plan)
        return prediction.damages(self.plan, self._measured, errors)

    def choose(self, goal: Goal) -> Cache:
        """The map, or the pair where none is better. Raises KvsplitError where nothing reaches the goal."""
        return self._within_limit(goal.limit) if goal.limit is not None else self._within_budget(goal.budget or 0)

    def outcome(self, goal: Goal) -> Outcome:
        """Choose, and compare on the text that was held out. Raises KvsplitError where nothing reaches the goal."""
        chosen = self.choose(goal)
        within, named = self._pairs(self.bytes(chosen)), [goal.pair] if goal.pair else []
        self.runs.measure(CHOSEN, [*within, *named], "pairs of the same bytes")
        best = sorted(within, key=self._measured)[:1]
        beside = [pair for pair in dict.fromkeys([*best, *named]) if pair != chosen]
        self.runs.measure(HELD, [chosen, *beside], "text that was held out")
        layer_map = LayerMap.of(chosen.pairs(self.plan.n_layer))
        pairs = tuple(self.figures(pair) for pair in beside)
        return Outcome(goal, layer_map, self.figures(chosen), pairs, self.bytes(CachePair(F16, F16)))

    def _within_budget(self, budget: int) -> Cache:
        """The map or pair that measures best of a few."""
        maps = [self._map(self._frontier(keys).best(budget)) for keys in (1, _TILT, 1 / _TILT)]
        candidates: list[Cache] = [each for each in maps if each is not None]
        candidates += self._pairs(budget)
        self.runs.measure(CHOSEN, candidates, "the best maps and pairs")
        return min(candidates, key=self._measured)

    def _within_limit(self, limit: float) -> Cache:
        """The smallest map of a few whose damage is surely at most ``limit``: all of its interval lies below."""
        frontier, factor = self._frontier(), 1.0
        passing: list[Cache] = []
        for _ in range(_TRIES):
            candidate = self._map(frontier.smallest(limit / factor))
            if candidate is None or candidate in passing:
                break
            self.runs.measure(CHOSEN, [candidate], "maps near the limit")
            high, predicted = self.runs.damage(CHOSEN, candidate)[2], self.predicted(candidate)
            if high <= limit:
                passing.append(candidate)
            if not predicted > 0 or high <= 0:
                break
            factor = high / predicted
        passing = [each for each in passing if each.quantized]
        if not passing:
            raise KvsplitError(
                f"No smaller cache than f16 was found whose damage is surely at most {limit:g} nats: give a larger --limit, or a "
                "--budget."
            )
        return min(passing, key=self.bytes)

    def _frontier(self, keys: float = 1.0) -> knapsack.Frontier:
        """The search where the keys' damage weighs ``keys`` times as much."""
        costs = [[side.bytes(each) for each in self.plan.types] for side in self.plan.sides]
        weights = [keys if side.name == "k" else 1.0 for side in self.plan.sides]
        harm = [[weight * row[each] for each in self.plan.types] for weight, row in zip(weights, self.damages)]
        return knapsack.frontier(costs, harm)

    def _map(self, choices: Sequence[int] | None) -> LayerMap | None:
        if choices is None:
            return None
        types = {side: self.plan.types[at] for side, at in zip(self.plan.sides, choices)}
        return layer_map(self.plan.n_layer, types)

    def _pairs(self, budget: int) -> list[CachePair]:
        """The pairs for all layers that are predicted to be best within ``budget`` bytes."""
        pairs = [CachePair(k, v) for k in self.plan.types for v in self.plan.types]
        fitting = [pair for pair in pairs if self.bytes(pair) <= budget]
        return sorted(fitting, key=lambda pair: (self.predicted(pair), self.bytes(pair)))[:_PAIRS]

    def bytes(self, cache: Cache) -> int:
        return bytes_of(self.plan.sides, cache)

    def predicted(self, cache: Cache) -> float:
        pairs = cache.pairs(self.plan.n_layer)
        return sum(row[getattr(pairs[side.layer], side.name)] for side, row in zip(self.plan.sides, self.damages))

    def _measured(self, cache: Cache) -> float:
        return self.runs.damage(CHOSEN, cache)[0]

    def figures(self, cache: Cache) -> Figures:
        held = self.runs.summary(HELD, cache)
        return Figures(
            cache,
            self.bytes(cache),
            self.predicted(cache),
            self.runs.damage(CHOSEN, cache),
            self.runs.damage(HELD, cache),
            held["kl_mean"],
            held["kl_999"],
        )
