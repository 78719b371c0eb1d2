"""What a quantized cache does to a model's predictions, against the f16 cache on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.context import Context, ContextOptions
from ..kvtypes import CachePair

if TYPE_CHECKING:
    from ..engine.weights import Weights

F16 = CachePair.from_bits(16, 16)


@dataclass(frozen=True)
class Divergence:
    """One cache against f16, a row for each predicted token; all arrays have the shape (tokens,)."""

    #: Kullback-Leibler divergence of the prediction from f16's, in nats.
    kl: np.ndarray
    #: Negative log-likelihood of the token that follows, in nats, and f16's.
    nll: np.ndarray
    nll_f16: np.ndarray
    #: Whether the likeliest token is the same.
    same_top: np.ndarray

    @property
    def mean_kl(self) -> float:
        return float(self.kl.mean())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nll.mean()))

    @property
    def perplexity_f16(self) -> float:
        return float(np.exp(self.nll_f16.mean()))


def windows(tokens: list[int], n_ctx: int, count: int) -> list[list[int]]:
    """The first ``count`` stretches of ``n_ctx`` tokens. Raises ValueError when the text is shorter."""
    if len(tokens) < n_ctx * count:
        raise ValueError(f"the text has {len(tokens)} tokens, and {count} x {n_ctx} are needed")
    return [tokens[i * n_ctx : (i + 1) * n_ctx] for i in range(count)]


def measure(weights: "Weights", pairs: list[CachePair], texts: list[list[int]]) -> dict[CachePair, Divergence]:
    """Every pair against f16 on the same windows of tokens.

    As in llama.cpp's llama-perplexity only the second half of a window counts, where each prediction has at least
    half a window of context.
    """
    rows: dict[CachePair, list[tuple[np.ndarray, ...]]] = {pair: [] for pair in pairs}
    for window in texts:
        reference = list(_log_probabilities(weights, F16, window))
        for pair in pairs:
            compared = zip(_log_probabilities(weights, pair, window), reference)
            rows[pair] += [_compare(log_p, log_q, following) for (log_p, following), (log_q, _) in compared]
    return {pair: Divergence(*(np.concatenate(column) for column in zip(*found))) for pair, found in rows.items()}


def _log_probabilities(
    weights: "Weights", pair: CachePair, window: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities of shape (batch, n_vocab), with the tokens that follow, for the second half of the window."""
    half = len(window) // 2
    context = Context(weights, ContextOptions(pair, len(window)))
    try:
        context.evaluate(window[:half])
        for start in range(half, len(window) - 1, 256):
            stop = min(start + 256, len(window) - 1)
            logits = context.logits(window[start:stop])
            logits -= logits.max(axis=1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            yield logits, np.array(window[start + 1 : stop + 1])
    finally:
        context.close()


def _compare(log_p: np.ndarray, log_q: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, ...]:
    row = np.arange(len(following))
    q = np.exp(log_q)
    return (
        (q * (log_q - log_p)).sum(axis=1),
        -log_p[row, following],
        -log_q[row, following],
        log_p.argmax(axis=1) == log_q.argmax(axis=1),
    )
