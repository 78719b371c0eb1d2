"""What a cache does to a model's predictions, against the f16 cache on the same tokens, and how much is damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.context import Context, ContextOptions
from ..errors import KvsplitError
from ..kvtypes import Cache, CachePair
from . import noise

if TYPE_CHECKING:
    from ..engine.weights import Weights

F16 = CachePair.from_bits(16, 16)

#: Neighbouring tokens are alike, so intervals come from the means of blocks of this many.
BLOCK = 64
#: With fewer blocks than this, an interval is infinite.
_FEWEST_BLOCKS = 4
#: Standard errors to either side of a mean: 95 %.
_WIDTH = 1.96
#: Logits of one step at most, in values: a batch of 256 tokens with a vocabulary of 64 k.
_LOGITS = 1 << 24

#: What an evaluation is for: half a window at once, predictions in batches, and single tokens as in an answer.
PROMPT, PREDICTIONS, ANSWER = "prompt", "predictions", "answer"
#: Entered around each evaluation with the pair whose cache it is (None: the f16 cache that all are compared with), what
#: it is for, and how many tokens it takes.
Step = Callable[["Cache | None", str, int], AbstractContextManager[None]]


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
    #: Share of the probability that lies on other tokens than with f16 (total variation).
    moved: np.ndarray

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nll.mean()))

    @property
    def perplexity_f16(self) -> float:
        return float(np.exp(self.nll_f16.mean()))

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a table or a file: [value, low, high] where there is a 95 % interval.

        ``ppl_change`` is a share (0.01 is 1 %), as are ``same_top`` and ``moved_999``; KL divergences are in nats.
        """
        change = _interval(self.nll - self.nll_f16)
        return {
            "tokens": len(self.kl),
            "ppl": self.perplexity,
            "ppl_f16": self.perplexity_f16,
            "ppl_change": [float(np.expm1(each)) for each in change],
            "kl_mean": _interval(self.kl),
            "kl_blocks": [float(each) for each in _blocks(self.kl)],
            "kl_999": quantile(self.kl, 0.999),
            "moved_999": quantile(self.moved, 0.999),
            "same_top": _interval(self.same_top.astype(np.float64)),
        }


def joined(parts: Iterable[Divergence]) -> Divergence:
    """Several stretches of text as one."""
    columns = zip(*([getattr(part, each.name) for each in fields(Divergence)] for part in parts))
    return Divergence(*(np.concatenate(column) for column in columns))


def record(pair: Cache, divergence: Divergence) -> dict[str, Any]:
    """``divergence.summary()`` as it stands in results. The nudged f16 cache has the perplexity of f16 itself."""
    summary = divergence.summary()
    if pair == F16:
        summary["ppl"] = summary["ppl_f16"]
        del summary["ppl_change"]
    return summary


def damage(cache: dict[str, Any], nudged: dict[str, Any]) -> list[float]:
    """What a cache's bits do, in nats, from two summaries: its mean KL divergence less that of the nudged f16 cache.

    Both are against the same f16 cache on the same text, so the 95 % interval comes from the differences of blocks.
    """
    mean = cache["kl_mean"][0] - nudged["kl_mean"][0]
    return with_interval(mean, np.subtract(cache["kl_blocks"], nudged["kl_blocks"]))


def _interval(values: np.ndarray) -> list[float]:
    """The mean with its 95 % interval, from the spread of the means of blocks."""
    return with_interval(float(values.mean()), _blocks(values))


def _blocks(values: np.ndarray) -> np.ndarray:
    n_blocks = len(values) // BLOCK
    return values[: n_blocks * BLOCK].reshape(n_blocks, BLOCK).mean(axis=1)


def with_interval(mean: float, blocks: np.ndarray) -> list[float]:
    n = len(blocks)
    if n < _FEWEST_BLOCKS:
        return [mean, float("-inf"), float("inf")]
    # Student's t: the first terms of its expansion (Abramowitz and Stegun 26.7.5).
    z, freedom = _WIDTH, n - 1
    width = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    error = width * float(blocks.std(ddof=1)) / n**0.5
    return [mean, mean - error, mean + error]


def quantile(values: np.ndarray, share: float) -> list[float]:
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
    weights: Weights,
    pairs: list[Cache],
    texts: list[list[int]],
    *,
    n_threads: int | None = None,
    done: Callable[[int], None] = lambda tokens: None,
) -> dict[Cache, Divergence]:
    """Every pair against f16 on the same windows of tokens. F16 among them stands for the nudged one (see ``noise``).

    ``done`` gets the number of tokens after each evaluation.
    """

    @contextmanager
    def step(_pair: Cache | None, _what: str, count: int) -> Iterator[None]:
        yield
        done(count)

    with caches(weights, pairs, len(texts[0]), n_threads) as contexts:
        parts = [window(contexts, each, step) for each in texts]
    return {pair: joined(part[pair] for part in parts) for pair in pairs}


@contextmanager
def caches(
    weights: Weights, pairs: list[Cache], n_ctx: int, n_threads: int | None
) -> Iterator[dict[Cache | None, Context]]:
    """A cache for each pair, and under None the f16 cache to compare with. F16 stands for the nudged one."""
    contexts: dict[Cache | None, Context] = {}
    try:
        contexts[None] = Context(weights, ContextOptions(F16, n_ctx, n_threads))
        for pair in pairs:
            if pair == F16:
                contexts[pair] = noise.nudged(weights, n_ctx, n_threads)
            else:
                contexts[pair] = Context(weights, ContextOptions(pair, n_ctx, n_threads))
        yield contexts
    finally:
        for context in contexts.values():
            context.close()


def window(
    contexts: dict[Cache | None, Context], tokens: list[int], step: Step, one_by_one: int = 0
) -> dict[Cache, Divergence]:
    """Evaluate ``tokens`` in every cache, side by side, and compare each with the one under None.

    As in llama.cpp's llama-perplexity only the second half of a window counts, where each prediction has at least
    half a window of context, and a window begins with BOS where the model wants one. The last ``one_by_one`` tokens
    are evaluated singly, as in writing an answer. Raises KvsplitError when llama.cpp refuses.
    """
    weights = contexts[None].weights
    if weights.bos_id is not None:
        tokens = [weights.bos_id, *tokens[1:]]
    half = len(tokens) // 2
    for pair, context in contexts.items():
        context.clear()
        with step(pair, PROMPT, half):
            context.evaluate(tokens[:half])
            context.synchronize()
    rows: dict[Cache, list[Divergence]] = {pair: [] for pair in contexts if pair is not None}
    for start, stop, what in _stretches(half, len(tokens) - 1, weights.n_vocab, one_by_one):
        log_q = np.empty(0)
        for pair, context in contexts.items():
            with step(pair, what, stop - start):
                logits = context.logits(tokens[start:stop])
            log_p = _log_probabilities(context, logits)
            if pair is None:
                log_q = log_p
            else:
                rows[pair].append(_compare(log_p, log_q, np.array(tokens[start + 1 : stop + 1])))
    return {pair: joined(parts) for pair, parts in rows.items()}


def predictions(
    context: Context, tokens: list[int], done: Callable[[int], None] = lambda tokens: None
) -> Iterator[np.ndarray]:
    """Log-probabilities of what ``window`` compares, in parts of shape (tokens, n_vocab): to be kept for ``compared``.

    ``done`` gets the number of tokens after each evaluation.
    """
    weights, half = context.weights, len(tokens) // 2
    if weights.bos_id is not None:
        tokens = [weights.bos_id, *tokens[1:]]
    context.clear()
    context.evaluate(tokens[:half], done=done)
    for start, stop, _ in _stretches(half, len(tokens) - 1, weights.n_vocab, 0):
        logits = context.logits(tokens[start:stop])
        done(stop - start)
        yield _log_probabilities(context, logits)


def _log_probabilities(context: Context, logits: np.ndarray) -> np.ndarray:
    """Of logits that were just computed. Raises what ``context.tap`` met meanwhile."""
    if context.tap and context.tap.error:
        raise context.tap.error
    # Half the bits take an eighth of the time, and a sum over 50 000 tokens is still right to 0.0000003 nats.
    return log_softmax(logits.astype(np.float32))


def compared(parts: Iterable[np.ndarray], reference: Iterable[np.ndarray], tokens: list[int]) -> Divergence:
    """One cache's ``predictions`` of a window against the f16 cache's."""
    rows, at = [], len(tokens) // 2 + 1
    for log_p, log_q in zip(parts, reference, strict=True):
        rows.append(_compare(log_p, log_q, np.array(tokens[at : at + len(log_p)])))
        at += len(log_p)
    return joined(rows)


def _stretches(start: int, stop: int, n_vocab: int, one_by_one: int) -> Iterator[tuple[int, int, str]]:
    """Parts of a window that are evaluated at once, and what for."""
    size = max(1, min(256, _LOGITS // n_vocab))
    singly = max(start, stop - one_by_one)
    for at in range(start, singly, size):
        yield at, min(at + size, singly), PREDICTIONS
    for at in range(singly, stop):
        yield at, at + 1, ANSWER


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, shape (tokens, n_vocab). They take the place of the logits."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def _compare(log_p: np.ndarray, log_q: np.ndarray, following: np.ndarray) -> Divergence:
    row = np.arange(len(following))
    return Divergence(
        divergences(log_p, log_q).astype(np.float64),
        -log_p[row, following].astype(np.float64),
        -log_q[row, following].astype(np.float64),
        log_p.argmax(axis=1) == log_q.argmax(axis=1),
        np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=1) / 2,
    )


def divergences(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL divergence of ``p`` from ``q`` in nats, shape (tokens,)."""
    return (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
