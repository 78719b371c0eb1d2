"""Caches measured on windows of a text, in one process: the f16 cache's predictions of a window are made once."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kvtypes
from ..bench import noise, quality, runner
from ..bench.jobs import Job
from ..bench.quality import F16
from ..engine.context import Context, ContextOptions
from ..errors import KvsplitError
from ..kvtypes import Cache

if TYPE_CHECKING:
    from ..bench.results import Results
    from ..bench.runner import Progress
    from ..engine.weights import Weights

#: The parts of a text: what the map is chosen on, and what shows whether it holds. They have no window in common.
CHOSEN, HELD = "chosen", "held"
#: Windows of each. What is measured of one side is small, and its share of the whole is wanted within a fifth or so.
COUNTS = {CHOSEN: 2, HELD: 8}


def windows(tokens: list[int], n_ctx: int) -> dict[str, dict[int, list[int]]]:
    """Of each part of the text its windows of ``n_ctx`` tokens by their place: in the first half, and in the second.

    They are spread evenly.

    Raises KvsplitError when the text is shorter than all of them.
    """
    count, needed = len(tokens) // n_ctx, sum(COUNTS.values())
    if count < needed:
        raise KvsplitError(
            f"The text has {len(tokens)} tokens, and {needed} x {n_ctx} are needed: give a longer one with --text."
        )
    border = max(COUNTS[CHOSEN], min(count - COUNTS[HELD], count // 2))
    parts = {CHOSEN: range(border), HELD: range(border, count)}
    return {
        part: {at: tokens[at * n_ctx : (at + 1) * n_ctx] for at in spread(places, COUNTS[part])}
        for part, places in parts.items()
    }


def spread(places: range, count: int) -> list[int]:
    """``count`` of the places, evenly."""
    return [places[i * len(places) // count] for i in range(count)]


@dataclass
class Runs:
    """What was measured, and the means to measure more."""

    weights: Weights
    results: Results
    windows: dict[str, dict[int, list[int]]]
    threads: int
    #: The part and place of the window whose predictions are kept, and they.
    _reference: tuple[tuple[str, int], list[np.ndarray]] | None = field(default=None, init=False)

    def measure(self, part: str, caches: Iterable[Cache], words: str) -> None:
        """See that each cache is measured on each window of ``part``, and the nudged f16 cache (see ``noise``).

        Ctrl-C leaves what is done. Raises KvsplitError when llama.cpp refuses, click.Abort on Ctrl-C.
        """
        jobs = [
            Job(_name(part, at, cache), {"part": part, "window": at, "cache": str(cache)}, len(window), words)
            for at, window in self.windows[part].items()
            for cache in dict.fromkeys([F16, *caches])
        ]
        runner.run(self.results, [job for job in jobs if job.name not in self.results.runs], self._run)
        self._reference = None

    @contextmanager
    def evaluated(self) -> Iterator[Context]:
        """An f16 cache with the first window in it."""
        with closing(Context(self.weights, self._options(F16))) as context:
            context.evaluate(self._first)
            context.synchronize()
            yield context

    def _run(self, order: dict[str, Any], progress: Progress) -> dict[str, Any]:
        part, at, cache = order["part"], order["window"], kvtypes.parse(order["cache"])
        tokens = self.windows[part][at]
        if self._reference is None or self._reference[0] != (part, at):
            self._reference = None  # before there are two
            progress.describe("f16")
            with closing(Context(self.weights, self._options(F16))) as context:
                self._reference = (part, at), list(quality.predictions(context, tokens))
        progress.describe("f16 nudged" if cache == F16 else textwrap.shorten(str(cache).replace(",", ", "), 34))
        with closing(self._context(cache)) as context:
            parts = quality.predictions(context, tokens, progress)
            rows = quality.compared(parts, self._reference[1], tokens)
        summary = rows.summary()
        record = {key: summary[key] for key in ("kl_mean", "kl_blocks")}
        # The 99.9th percentile of several windows wants all rows.
        return record if part == CHOSEN else {**record, "kl": [float(f"{each:.5g}") for each in rows.kl]}

    def _context(self, cache: Cache) -> Context:
        if cache == F16:
            return noise.nudged(self.weights, self._n_ctx, self.threads)
        return Context(self.weights, self._options(cache))

    def _options(self, cache: Cache) -> ContextOptions:
        return ContextOptions(cache, self._n_ctx, self.threads)

    @property
    def _first(self) -> list[int]:
        return next(iter(self.windows[CHOSEN].values()))

    @property
    def _n_ctx(self) -> int:
        return len(self._first)

    def summary(self, part: str, cache: Cache) -> dict[str, Any]:
        """``quality``'s figures of a measured cache over all windows of ``part``, those that were kept."""
        runs = [self.results.runs[_name(part, at, cache)] for at in self.windows[part]]
        blocks = [block for run in runs for block in run["kl_blocks"]]
        mean = float(np.mean([run["kl_mean"][0] for run in runs]))
        figures: dict[str, Any] = {"kl_mean": quality.with_interval(mean, np.array(blocks)), "kl_blocks": blocks}
        if all("kl" in run for run in runs):
            figures["kl_999"] = quality.quantile(np.array([each for run in runs for each in run["kl"]]), 0.999)
        return figures

    def damage(self, part: str, cache: Cache) -> list[float]:
        """[mean, low, high] of the damage in nats, as 'llm kvsplit compare' counts it."""
        return quality.damage(self.summary(part, cache), self.summary(part, F16))


def _name(part: str, at: int, cache: Cache) -> str:
    return f"{part}/{at}/{cache}"
