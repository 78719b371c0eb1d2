"""What heads attend to, with an f16, a K8V4 and a K4V8 cache: softmax of queries and the keys that were stored.

Queries are read while llama.cpp computes them, keys out of the cache; each configuration is evaluated for itself, so
its queries carry what the layers below did to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import rows
from ..engine.context import Context, ContextOptions
from ..engine.tap import Tap
from ..kvtypes import CachePair

if TYPE_CHECKING:
    from ..engine.weights import Weights

PAIRS = tuple(CachePair.from_bits(*bits) for bits in ((16, 16), (8, 4), (4, 8)))
#: Pictures of this many heads: those that K4V8 changes most.
_SHOWN = 3


def measure(
    weights: Weights,
    tokens: list[int],
    n_threads: int | None,
    done: Callable[[int], None] = lambda tokens: None,
) -> dict[str, Any]:
    """Attention of the heads that 4-bit keys change most: rows are queries, columns keys, each row sums to 1.

    The patterns are packed, see ``pack``.
    """
    attention = {pair: patterns(weights, pair, tokens, n_threads, done) for pair in PAIRS}
    f16 = attention[PAIRS[0]]
    # Half the sum of differences: the share of a query's attention that went elsewhere.
    moved = {pair: np.abs(attention[pair] - f16).sum(axis=-1).mean(axis=-1) / 2 for pair in PAIRS}
    order = np.argsort(moved[PAIRS[2]], axis=None)[::-1][:_SHOWN]
    heads = [tuple(map(int, np.unravel_index(each, moved[PAIRS[2]].shape))) for each in order]
    return {
        "tokens": len(tokens),
        "heads": [
            {
                "layer": layer,
                "head": head,
                "moved": {str(pair): float(moved[pair][layer, head]) for pair in PAIRS[1:]},
                "patterns": {str(pair): pack(attention[pair][layer, head]) for pair in PAIRS},
            }
            for layer, head in heads
        ],
    }


def pack(pattern: np.ndarray) -> list[str]:
    """A text for each query: two hexadecimal digits a key, 255 times the root of its weight, so that small ones show."""
    levels = np.rint(255 * np.sqrt(pattern)).astype(np.uint8)
    return [row[: i + 1].tobytes().hex() for i, row in enumerate(levels)]


def unpack(rows: list[str]) -> np.ndarray:
    """Attention weights from ``pack``, shape (tokens, tokens)."""
    pattern = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        pattern[i, : i + 1] = (np.frombuffer(bytes.fromhex(row), np.uint8) / 255) ** 2
    return pattern


def patterns(
    weights: Weights,
    pair: CachePair,
    tokens: list[int],
    n_threads: int | None,
    done: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """Attention weights of every head, shape (layers, heads, tokens, tokens)."""
    header = weights.header
    tap = Tap({f"Qcur-{layer}" for layer in range(header.n_layer)})
    context = Context(weights, ContextOptions(pair, len(tokens), n_threads, flash_attn=True), tap)
    try:
        context.evaluate(tokens)  # one batch, so that a query stands for each token
        done(len(tokens))
        state = rows.of_context(context)
    finally:
        context.close()
    return np.stack([_layer(header, tap, state, layer, pair) for layer in range(header.n_layer)])


def _layer(header: Any, tap: Tap, state: rows.SequenceState, layer: int, pair: CachePair) -> np.ndarray:
    shape, n_head = header.layers[layer], header.n_head
    dim, n = shape.head_dim_k, len(state.k[layer].view)
    keys = rows.values(state.k[layer])
    if pair.k.bits != 16:
        keys = rows.rotated(keys, rows.rotation(dim, keys=True))  # back to where the queries are
    queries = tap.values[f"Qcur-{layer}"].reshape(n, n_head, dim)
    keys = np.repeat(keys.reshape(n, shape.n_head_kv, dim), n_head // shape.n_head_kv, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) / dim**0.5
    scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True)
