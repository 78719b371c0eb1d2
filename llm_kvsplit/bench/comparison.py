"""All caches side by side in one process: the quality of each, and the speed of the same evaluations.

f16's predictions are computed once, and the speeds of all caches are taken in turns, a second or less apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kvtypes import Cache
from . import quality
from .jobs import Job
from .quality import F16
from .results import Results

if TYPE_CHECKING:
    from ..engine.context import Context
    from .runner import Progress

#: Tokens of text for each cache, roughly; half of them are predicted.
_TOKENS = 2048
#: Single tokens at the end of each window, which the speed of generation comes from.
SINGLE = 16

_WORDS = {quality.PROMPT: "prompt", quality.PREDICTIONS: "predictions", quality.ANSWER: "generation"}


def windows(n_ctx: int) -> int:
    return max(2, _TOKENS // n_ctx)


def jobs(pairs: list[Cache], n_ctx: int) -> list[Job]:
    """One for each window of text: all ``pairs`` on it, F16 among them."""
    words = f"{', '.join(map(str, pairs))}: predictions and speeds"
    tokens = (1 + len(pairs)) * (n_ctx - 1)
    return [Job(f"window/{i}", {"window": i}, tokens, words) for i in range(windows(n_ctx))]


def warm_up(contexts: dict[Cache | None, Context], tokens: list[int]) -> None:
    """Evaluate a little in each, since the first time takes longer."""
    for context in contexts.values():
        context.evaluate(tokens[:32])
        context.evaluate(tokens[:1])
        context.synchronize()


def measure(contexts: dict[Cache | None, Context], tokens: list[int], progress: Progress) -> dict[str, Any]:
    """One window of text with every cache: a row for each prediction, and how fast it was made."""
    rates: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(pair: Cache | None, what: str, count: int) -> Iterator[None]:
        progress.describe(f"{'f16 nudged' if pair == F16 else pair or F16}: {_WORDS[what]}")
        started = time.perf_counter()
        yield
        timed = rates.setdefault(str(pair or F16), {})
        if pair != F16 and what != quality.PREDICTIONS:  # nudging takes time of its own
            timed[what] = timed.get(what, 0) + time.perf_counter() - started
        progress(count)

    parts = quality.window(contexts, tokens, step, SINGLE)
    half = len(tokens) // 2
    return {
        "rows": {
            str(pair): {name: column.tolist() for name, column in vars(part).items()} for pair, part in parts.items()
        },
        "sizes": {
            str(pair): {"kv_bytes": c.kv_size.bytes, "buffer_bytes": c.buffers.total, "cells": c.n_ctx}
            for pair, c in contexts.items()
            if pair is not None
        },
        "timed": {
            pair: {"prompt_tps": half / seconds[quality.PROMPT], "generation_tps": SINGLE / seconds[quality.ANSWER]}
            for pair, seconds in rates.items()
        },
    }


def combined(kept: Results, pairs: list[Cache], n_ctx: int) -> Results:
    """The results of all windows, in the form of ``bench``. Nothing is written."""
    parts = [kept.runs[job.name] for job in jobs(pairs, n_ctx)]
    runs: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        rows = [quality.Divergence(**{k: np.array(v) for k, v in part["rows"][str(pair)].items()}) for part in parts]
        runs[f"{pair}/{n_ctx}/quality"] = quality.record(pair, quality.joined(rows))
        for i, part in enumerate(parts):
            runs[f"{pair}/{n_ctx}/speed/{i}"] = {**part["sizes"][str(pair)], "timed": part["timed"][str(pair)]}
    return Results(kept.file, kept.about, runs)
