"""What a quantized cache does to a model's predictions, against the f16 cache on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.context import Context, ContextOptions
from ..errors import KvsplitError
from ..kvtypes import CachePair

if TYPE_CHECKING:
    from ..engine.weights import Weights

F16 = CachePair.from_bits(16, 16)

#: Neighbouring tokens are alike, so intervals come from the means of blocks of this many.
BLOCK = 64
#: Standard errors to either side of a mean: 95 %.
_WIDTH = 1.96
#: Logits of one step at most, in values: a batch of 256 tokens with a vocabulary of 64 k.
_LOGITS = 1 << 24


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

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a table or a file: [value, low, high] where there is a 95 % interval.

        ``ppl_change`` is a share (0.01 is 1 %), ``same_top`` a share, KL divergences are in nats.
        """
        change = _interval(self.nll - self.nll_f16)
        return {
            "tokens": len(self.kl),
            "ppl": self.perplexity,
            "ppl_f16": self.perplexity_f16,
            "ppl_change": [float(np.expm1(each)) for each in change],
            "kl_mean": _interval(self.kl),
            "kl_999": _quantile(self.kl, 0.999),
            "same_top": _interval(self.same_top.astype(np.float64)),
        }


def _interval(values: np.ndarray) -> list[float]:
    """The mean with its 95 % interval, from the spread of the means of blocks."""
    n_blocks = len(values) // BLOCK
    mean = float(values.mean())
    if n_blocks < 2:
        return [mean, float("-inf"), float("inf")]
    blocks = values[: n_blocks * BLOCK].reshape(n_blocks, BLOCK).mean(axis=1)
    error = _WIDTH * float(blocks.std(ddof=1)) / n_blocks**0.5
    return [mean, mean - error, mean + error]


def _quantile(values: np.ndarray, share: float) -> list[float]:
    """A quantile with its 95 % interval: the values whose ranks lie so far to either side."""
    ordered, n = np.sort(values), len(values)
    error = _WIDTH * (n * share * (1 - share)) ** 0.5
    ranks = (max(0, int(n * share - error)), min(n - 1, int(n * share + error) + 1))
    return [float(np.quantile(values, share)), *(float(ordered[rank]) for rank in ranks)]


def windows(tokens: list[int], n_ctx: int, count: int) -> list[list[int]]:
    """The first ``count`` stretches of ``n_ctx`` tokens. Raises KvsplitError when the text is shorter."""
    if len(tokens) < n_ctx * count:
        raise KvsplitError(
            f"The text has {len(tokens)} tokens, and {count} x {n_ctx} are needed: give a longer one with --text, or "
            "measure a shorter context."
        )
    return [tokens[i * n_ctx : (i + 1) * n_ctx] for i in range(count)]


def measure(
    weights: "Weights",
    pairs: list[CachePair],
    texts: list[list[int]],
    *,
    n_threads: int | None = None,
    done: Callable[[int], None] = lambda tokens: None,
) -> dict[CachePair, Divergence]:
    """Every pair against f16 on the same windows of tokens, all caches side by side in memory.

    As in llama.cpp's llama-perplexity only the second half of a window counts, where each prediction has at least
    half a window of context, and a window begins with BOS where the model wants one. ``done`` hears how many tokens
    were evaluated.
    """
    rows: dict[CachePair, list[tuple[np.ndarray, ...]]] = {pair: [] for pair in pairs}
    contexts = {}
    try:
        for pair in dict.fromkeys([F16, *pairs]):
            contexts[pair] = Context(weights, ContextOptions(pair, len(texts[0]), n_threads))
        for window in texts:
            for start, stop, of_f16, of_pairs in _side_by_side(weights, contexts, _with_bos(weights, window), done):
                following = np.array(window[start + 1 : stop + 1])
                for pair in pairs:
                    rows[pair].append(_compare(of_pairs[pair], of_f16, following))
    finally:
        for context in contexts.values():
            context.close()
    return {pair: Divergence(*(np.concatenate(column) for column in zip(*found))) for pair, found in rows.items()}


def _with_bos(weights: "Weights", window: list[int]) -> list[int]:
    return [weights.bos_id, *window[1:]] if weights.bos_id is not None else window


def _side_by_side(weights: "Weights", contexts: dict[CachePair, Context], window: list[int], done: Callable[[int], None]):
    """Evaluate the window in every context; yields, for stretches of its second half, the log-probabilities.

    Each is (start, stop, f16's, by pair), arrays of shape (stop - start, n_vocab).
    """
    half = len(window) // 2
    for context in contexts.values():
        context.clear()
        context.evaluate(window[:half], done=done)
    step = max(1, min(256, _LOGITS // weights.n_vocab))
    for start in range(half, len(window) - 1, step):
        stop = min(start + step, len(window) - 1)
        found = {}
        for pair, context in contexts.items():
            found[pair] = log_softmax(context.logits(window[start:stop]))
            done(stop - start)
        yield start, stop, found[F16], found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In place; shape (tokens, n_vocab)."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def _compare(log_p: np.ndarray, log_q: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, ...]:
    row = np.arange(len(following))
    return (
        divergences(log_p, log_q),
        -log_p[row, following],
        -log_q[row, following],
        log_p.argmax(axis=1) == log_q.argmax(axis=1),
    )


def divergences(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL divergence of ``p`` from ``q`` in nats, shape (tokens,)."""
    return (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
