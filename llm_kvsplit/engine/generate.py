"""From prompt tokens to text: the loop that everything else is for."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import KvsplitError
from ..grammar import Grammar
from .context import MEDIA, PADDING, Context
from .guide import Guide, Prelude
from .matcher import Matcher
from .projector import Projector
from .sampling import Sampler, Sampling
from .weights import Weights

#: Tokens of room for an answer without max_tokens. The cache grows when they are used up.
ANSWER_ROOM = 512


@dataclass(frozen=True)
class Request:
    tokens: list[int]
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    #: Largest context the cache may grow to, in tokens.
    n_ctx_limit: int = 0
    #: Control tokens to show as text, since they delimit what the caller parses; others are not text.
    visible: frozenset[str] = frozenset()
    #: What made tokens of the pictures and sound in the prompt, if there are any.
    projector: Projector | None = None
    #: What the answer has to look like.
    grammar: Grammar | None = None
    #: What may come before such an answer, and which of it the prompt has opened.
    preludes: tuple[Prelude, ...] = ()
    opened: Prelude | None = None


@dataclass
class Outcome:
    """Filled in while the answer is generated."""

    #: "stop", "length", or "interrupted"
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0
    grown_to: list[int] = field(default_factory=list)
    #: Characters of text before an answer that follows a grammar; None while there is no such answer.
    answer_at: int | None = None
    #: Whether an answer that follows a grammar ended before it was whole.
    cut: bool = False


def context_size(n_prompt: int, max_tokens: int | None, limit: int) -> int:
    """Tokens of context to allocate: what prompt and answer need, padded, at most ``limit``."""
    needed = n_prompt + (ANSWER_ROOM if max_tokens is None else max_tokens)
    return min(-(-needed // PADDING) * PADDING, max(limit, PADDING))


def generate(
    context: Context, request: Request, outcome: Outcome, stopped: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """Yield the answer's text as it comes. Once ``stopped()`` is true, it ends, within the prompt too.

    Raises KvsplitError for a prompt that leaves no room for an answer.
    """
    n_prompt = len(request.tokens)
    outcome.prompt_tokens = n_prompt
    if n_prompt == 0:
        raise KvsplitError("The prompt is empty: give the model some text to go on.")
    if n_prompt >= request.n_ctx_limit:
        n_media = sum(token >= MEDIA for token in request.tokens)
        raise KvsplitError(
            f"The prompt has {n_prompt} tokens{f', {n_media} of them for attachments,' if n_media else ''} and the context "
            f"holds {request.n_ctx_limit}: shorten the prompt, or raise -o n_ctx if the model was trained for more."
        )
    # It is made while the prompt is evaluated.
    matcher = Matcher(context.weights, request.grammar) if request.grammar else None
    try:
        started = time.perf_counter()
        outcome.reused_tokens = context.keep_prefix(request.tokens)
        if request.projector is not None:
            request.projector.evaluate(context, request.tokens, stopped)
        else:
            context.evaluate(request.tokens[outcome.reused_tokens :], stopped)
        outcome.prompt_seconds = time.perf_counter() - started
        yield from _answer(context, matcher, request, outcome, stopped)
    finally:
        if matcher is not None:
            matcher.close()


def _answer(
    context: Context, matcher: Matcher | None, request: Request, outcome: Outcome, stopped: Callable[[], bool]
) -> Iterator[str]:
    started = time.perf_counter()
    sampler = Sampler(context.weights, request.sampling)
    guide = Guide(context.weights, sampler, matcher, request.preludes, request.opened) if matcher else None
    try:
        yield from _until_stop(_pieces(context, guide or sampler, request, outcome, stopped), request.stop, outcome)
        outcome.cut = guide is not None and guide.cut
    finally:
        sampler.close()
        outcome.completion_seconds = time.perf_counter() - started


def _pieces(
    context: Context, chooser: Sampler | Guide, request: Request, outcome: Outcome, stopped: Callable[[], bool]
) -> Iterator[str]:
    guide = chooser if isinstance(chooser, Guide) else None
    # A token may hold half a character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    n_characters = 0
    while True:
        if stopped():
            outcome.finish_reason = "interrupted"
            break
        if guide is not None and guide.ended:
            break
        if request.max_tokens is not None and outcome.completion_tokens >= request.max_tokens:
            outcome.finish_reason = "length"
            break
        token = chooser.sample(context)
        if guide is not None and guide.answering and outcome.answer_at is None:
            outcome.answer_at = n_characters
        if context.weights.is_end(token):
            break
        outcome.completion_tokens += 1
        piece = b"" if guide is not None and guide.blank else _shown(context.weights, token, request.visible)
        if text := decoder.decode(piece):
            n_characters += len(text)
            yield text
        if not _make_room(context, request, outcome):
            outcome.finish_reason = "length"
            break
        context.evaluate([token])
    if text := decoder.decode(b"", final=True):
        yield text


def _shown(weights: Weights, token: int, visible: frozenset[str]) -> bytes:
    """A token's text; nothing for a control token that is not ``visible``."""
    piece = weights.piece(token, special=True)
    if piece and not weights.piece(token, special=False) and piece.decode("utf-8", "replace") not in visible:
        return b""
    return piece


def _make_room(context: Context, request: Request, outcome: Outcome) -> bool:
    """Room for one more token, growing the cache up to its limit."""
    if len(context.tokens) < context.n_ctx:
        return True
    if context.n_ctx >= request.n_ctx_limit:
        return False
    context.grow(min(2 * context.n_ctx, request.n_ctx_limit))
    outcome.grown_to.append(context.n_ctx)
    return len(context.tokens) < context.n_ctx


def held_back(text: str, markers: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` may be the beginning of one of ``markers``."""
    longest = 0
    for marker in markers:
        for n in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:n]):
                longest = n
                break
    return longest


def _until_stop(pieces: Iterator[str], stop: tuple[str, ...], outcome: Outcome) -> Iterator[str]:
    """``pieces`` up to the first stop text, which is not shown, however it falls across pieces."""
    held = ""
    for piece in pieces:
        held += piece
        stops = [at for s in stop if (at := held.find(s)) >= 0]
        if stops:
            if text := held[: min(stops)]:
                yield text
            outcome.finish_reason = "stop"
            return
        keep = held_back(held, stop)
        text, held = held[: len(held) - keep], held[len(held) - keep :]
        if text:
            yield text
    if held:
        yield held
