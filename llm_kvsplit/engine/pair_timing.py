"""A pair of cache types against f16: how long a prompt takes, with the library at hand on this machine.

The bundled model evaluates a few tokens behind 4096 that are in the cache already, since that is what the average token
of a prompt of 8192 costs. Those 4096 are copies of 64 computed ones, put into the cache as a state: what they say does
not matter here, and a slow library would take half a minute to compute them.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from .. import demo
from ..builds import choice
from ..builds.pair_speed import PROMPT, SLOW, PairSpeed
from ..kvtypes import Cache, CachePair
from . import library, rows
from .context import Context, ContextOptions
from .weights import LoadOptions, Weights

F16 = CachePair.from_bits(16, 16)
_COMPUTED, _DEPTH, _BATCH, _TURNS = 64, PROMPT // 2, 64, 4


def measure(weights: Weights, cache: Cache) -> PairSpeed:
    """How long a prompt takes with ``cache``, against f16. Raises KvsplitError when llama.cpp cannot make the cache."""
    contexts: list[Context] = []
    try:
        for each in dict.fromkeys((F16, cache)):
            contexts.append(_filled(Context(weights, ContextOptions(each, _DEPTH + _BATCH))))
        # In turns, and the best of each: whatever else the machine does only ever adds time. What seems slow is
        # measured twice, since it is remembered.
        seconds = [(_seconds(contexts[0]), _seconds(contexts[-1])) for _ in range(_TURNS)]
        if _factor(seconds) >= SLOW:
            seconds += [(_seconds(contexts[0]), _seconds(contexts[-1])) for _ in range(_TURNS)]
        return PairSpeed(_factor(seconds) if cache.quantized else 1.0, *_attention_device(contexts[-1]))
    finally:
        for context in contexts:
            context.close()


def _factor(seconds: list[tuple[float, float]]) -> float:
    f16_seconds, pair_seconds = map(min, zip(*seconds))
    return pair_seconds / f16_seconds


def _attention_device(context: Context) -> tuple[str | None, str]:
    """The device of attention, and the GPU that it fell from."""
    gpus = [device["description"] for device in library.devices() if device["type"] in ("gpu", "igpu")]
    if context.attention is None:
        return None, ""
    if context.attention == "GPU":
        return gpus[0], ""
    return "the CPU", gpus[0] if gpus else ""


def _filled(context: Context) -> Context:
    context.evaluate(list(range(100, 100 + _COMPUTED)))
    tokens = context.tokens * (_DEPTH // _COMPUTED)
    state = rows.repeated(context.state(), _COMPUTED, _DEPTH // _COMPUTED)
    context.clear()
    if not context.restore(state, tokens):
        context.evaluate(tokens)
    return context


def _seconds(context: Context) -> float:
    """Seconds that a batch takes behind the filled cache, which is as before afterwards."""
    started = time.perf_counter()
    context.evaluate(list(range(200, 200 + _BATCH)))
    context.synchronize()
    seconds = time.perf_counter() - started
    context.keep_prefix([*context.tokens[:_DEPTH], 0])
    return seconds


def _print_speed(pair: CachePair) -> None:
    weights = Weights(LoadOptions(demo.MODEL, use_extra_bufts=choice.extra_bufts()))
    print(json.dumps(asdict(measure(weights, pair))))


if __name__ == "__main__":
    _print_speed(CachePair.parse(sys.argv[1]))
