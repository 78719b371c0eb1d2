"""What a model's own roundings do to its predictions: the f16 cache against itself, nudged.

A product with quantized weights rounds the activations to 8 bits too (ggml-cpu: vec_dot_type of every quantized type).
The smallest change of an activation tips some of those roundings, each by a whole step; those tip more in the next
layer, and after a few layers all are thrown anew. So any change at all, however small, moves the predictions by the same
amount. A cache does that as well, whatever its bits, and it has to be told from what the bits do.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..engine.context import Context, ContextOptions
from ..engine.tap import Tap
from ..kvtypes import CachePair

if TYPE_CHECKING:
    from ..engine.weights import Weights

_F16 = CachePair.from_bits(16, 16)
#: Standard deviation of the nudge, as a share of each value: a fiftieth of q8_0's own rounding error, and from a tenth
#: of it to ten times it the predictions move alike (docs/evidence/verdict.md).
NUDGE = 1e-4


def nudged(weights: Weights, n_ctx: int, n_threads: int | None, share: float = NUDGE) -> Context:
    """An f16 cache whose every attention output is changed by a ``share`` of itself, at random, the same each time.

    That is where all that a cache does to a model comes in. A model without attention is left as it is: there a cache
    changes nothing either. Raises KvsplitError when the cache cannot be made.
    """
    # "kqv_out" is llama.cpp's name for it in every kind of attention (build_attn in llama-graph.cpp).
    names = {f"kqv_out-{layer}" for layer in range(weights.header.n_layer)}
    tap = Tap(names)
    tap.steps = dict.fromkeys(names, 1)
    tap.changes = dict.fromkeys(names, functools.partial(_nudge, share))
    return Context(weights, ContextOptions(_F16, n_ctx, n_threads), tap)


def _nudge(share: float, values: np.ndarray) -> np.ndarray:
    return values * _factors(len(values), share)


@functools.lru_cache(maxsize=4)
def _factors(count: int, share: float) -> np.ndarray:
    chance = np.random.default_rng(0)
    return 1 + np.float32(share) * chance.standard_normal(count, np.float32)
