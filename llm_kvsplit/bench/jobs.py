"""Which measurements make a bench, in which order, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import fit
from ..errors import KvsplitError
from ..kvtypes import Cache
from ..units import size
from .quality import F16

if TYPE_CHECKING:
    from ..engine.weights import Weights
    from .subject import Subject

LENGTHS = (128, 2048, 4096, 8192)
#: The shortest context with room for a prompt and what is generated behind it.
SHORTEST = 64
#: Tokens that quality is measured on, roughly: many short windows or a few long ones.
_QUALITY_TOKENS = 8192
#: Shortest context worth planting needles in.
_NEEDLES_FROM = 512
#: Layer-wise analysis: windows of this many tokens.
_LAYERS = (1024, 4)
_HEADS = 96


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    #: Its name in the results.
    name: str
    #: What the child process reads, see ``child``.
    order: dict[str, Any]
    #: Tokens that it evaluates.
    tokens: int
    #: What it is, for a person.
    words: str


def lengths(depth: int | None) -> list[int]:
    """The usual lengths, and doubled ones up to ``depth``."""
    lengths = list(LENGTHS)
    while depth and lengths[-1] * 2 <= depth:
        lengths.append(lengths[-1] * 2)
    return [n for n in lengths if depth is None or n <= max(depth, LENGTHS[-1])]


def windows(n_ctx: int) -> int:
    return max(1, min(32, _QUALITY_TOKENS // n_ctx))


def planned(
    subject: Subject, pairs: list[Cache], lengths: list[int], repeats: int, common: dict[str, Any], *, layers: bool
) -> Iterator[Job]:
    """Everything to measure. Speeds come first and in turns, so that a machine that slows down slows all alike."""
    trained = subject.header.n_ctx_train
    yield from speeds(pairs, lengths, repeats, common)
    for n_ctx in (n for n in lengths if n <= trained):
        yield from quality(pairs, n_ctx, windows(n_ctx), common)
        for pair in pairs if n_ctx >= _NEEDLES_FROM else ():
            words = f"{pair}, {n_ctx} tokens: planted numbers"
            yield _job(f"{pair}/{n_ctx}/needles", pair, n_ctx, "needles", n_ctx, common, words)
    if layers:
        n_ctx, count = min(_LAYERS[0], trained), _LAYERS[1]
        passes = 1 + 2 * subject.header.n_layer
        order = common | {"windows": count}
        yield _job("layers", F16, n_ctx, "layers", passes * n_ctx * count, order, "each layer by itself")
        n_ctx = min(_HEADS, trained)
        yield _job("heads", F16, n_ctx, "heads", 3 * n_ctx, common, "attention of single heads")


def speeds(pairs: list[Cache], lengths: list[int], repeats: int, common: dict[str, Any]) -> Iterator[Job]:
    for repeat in range(repeats):
        for n_ctx in lengths:
            for pair in pairs:
                words = f"{pair}, {n_ctx} tokens: speed"
                yield _job(f"{pair}/{n_ctx}/speed/{repeat}", pair, n_ctx, "speed", n_ctx, common, words)


def quality(pairs: list[Cache], n_ctx: int, windows: int, common: dict[str, Any]) -> Iterator[Job]:
    """Every pair against f16. The nudged f16 comes first, since the damage of the others is counted from it."""
    for pair in dict.fromkeys([F16, *pairs]):
        words = f"{'f16 nudged' if pair == F16 else pair}, {n_ctx} tokens: predictions"
        order = common | {"windows": windows}
        yield _job(f"{pair}/{n_ctx}/quality", pair, n_ctx, "quality", 2 * n_ctx * windows, order, words)


def _job(name: str, pair: Cache, n_ctx: int, kind: str, tokens: int, common: dict[str, Any], words: str) -> Job:
    order = common | {"kind": kind, "pair": str(pair), "n_ctx": n_ctx}
    return Job(name, order, tokens, words)


def too_large(weights: Weights, pair: Cache, n_ctx: int, memory: int) -> str:
    """Why ``n_ctx`` tokens with ``pair`` cannot be measured; empty when they can.

    Quality is measured beside an f16 cache, so room for both is wanted where the model was trained for that length.
    """
    total = fit.footprint(weights, pair, n_ctx).total
    if n_ctx <= weights.n_ctx_train:
        reference = fit.footprint(weights, F16, n_ctx)
        total += reference.kv + reference.buffers
    if total <= memory:
        return ""
    return f"{pair} at {n_ctx} tokens takes {size(total)} with the weights, and there are {size(memory)}"


def refuse_unless_it_fits(weights: Weights, pairs: list[Cache], n_ctx: int, memory: int) -> None:
    """Raise KvsplitError, with the numbers, unless every pair fits. Nothing is loaded for it."""
    for pair in pairs:
        if reason := too_large(weights, pair, n_ctx, memory):
            raise too_large_error(reason)


def refuse_unless_side_by_side(weights: Weights, pairs: list[Cache], n_ctx: int, memory: int) -> None:
    """The same for all pairs and the f16 cache that they are compared with, in memory at once."""
    taken = [fit.footprint(weights, pair, n_ctx) for pair in (F16, *pairs)]
    total = taken[0].total + sum(each.kv + each.buffers for each in taken[1:])
    if total > memory:
        raise too_large_error(
            f"{len(taken)} caches of {n_ctx} tokens side by side take {size(total)} with the weights, and there are {size(memory)}"
        )


def too_large_error(reason: str) -> KvsplitError:
    return KvsplitError(f"{reason}: measure a shorter context, or see 'llm kvsplit fit'.")
