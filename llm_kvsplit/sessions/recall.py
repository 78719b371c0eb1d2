"""Between the engine and the stored states: find one, put it into a cache, keep a cache's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ..builds import choice, probe
from ..engine import library
from ..kvtypes import CacheType
from . import fingerprint, states
from .state_file import Key, Session

if TYPE_CHECKING:
    from ..engine.context import Context, ContextOptions
    from ..engine.weights import Weights


def find(weights: Weights, options: ContextOptions, tokens: list[int], n_ctx_limit: int) -> tuple[Session, int] | None:
    """The stored state that shares the longest prefix with ``tokens``, and that prefix's length."""
    try:
        key = _key(weights, options, compute=False)
        return states.find(key, tokens, n_ctx_limit) if key else None
    except OSError:
        return None


def restore(context: Context, stored: tuple[Session, int], tokens: list[int]) -> float | None:
    """Put a stored state into the cache, unless the cache already shares as much with ``tokens``.

    Seconds that it took, from the disk into the cache; None when nothing was restored.
    """
    from ..engine.context import Span, common_prefix

    session, _ = stored
    stored_tokens = session.tokens.tolist()
    if common_prefix(context.tokens, tokens) >= common_prefix(stored_tokens, tokens):
        return None
    started = time.perf_counter()
    state = states.load(session)
    if state is None:
        return None
    context.clear()
    restored = context.restore(state, stored_tokens, [Span(*each) for each in session.media])
    return time.perf_counter() - started if restored else None


def deferred_save(context: Context, model_name: str, conversation: str) -> Callable[[], states.Saved | None]:
    """Copy the state out of the cache; the function returned writes it to disk, when there is time.

    Neither raises for the disk's sake: the answer has been given.
    """
    if len(context.tokens) < states.MIN_TOKENS or context.weights.lost:
        return lambda: None
    tokens, state = list(context.tokens), context.state()
    media = [(span.start, span.length, span.positions) for span in context.spans]
    weights, options = context.weights, context.options

    def write() -> states.Saved | None:
        try:
            key = _key(weights, options, compute=True)
            return states.save(key, model_name, conversation, tokens, state.data, media) if key else None
        except OSError as ex:
            states.record_trouble(f"A state could not be stored: {ex.strerror}.")
            return None

    return write


def should_store(option: bool | None) -> bool:
    """Whether to store the state: only what llm logs is kept, and nothing with ``-o kv_sessions false``.

    Called where llm's command runs; from Python, where llm logs nothing by itself, only on request.
    """
    if option is False:
        return False
    import click

    call = click.get_current_context(silent=True)
    if call is None:
        return option is True
    from llm.cli import logs_on

    return bool((logs_on() or call.params.get("log")) and not call.params.get("no_log"))


def _types(layers: Sequence[CacheType]) -> str:
    """The type of all layers, or of each run of layers where they differ: "4 q8_0 + 26 q4_0"."""
    runs = [(name, len(list(same))) for name, same in groupby(cache_type.name for cache_type in layers)]
    return runs[0][0] if len(runs) == 1 else " + ".join(f"{count} {name}" for name, count in runs)


def _key(weights: Weights, options: ContextOptions, *, compute: bool) -> Key | None:
    sha256 = fingerprint.model_sha256(weights.header.files, compute=compute)
    if sha256 is None:
        return None
    pairs = library.stored(options.cache).pairs(weights.header.n_layer)
    return Key(
        model=sha256,
        k_type=_types([pair.k for pair in pairs]),
        v_type=_types([pair.v for pair in pairs]),
        flash_attn=options.flash_attn,
        rotation=library.rotates(),
        library=probe.key(choice.current()),
        n_gpu_layers=weights.options.n_gpu_layers,
        state_format=weights.lib.LLAMA_STATE_SEQ_VERSION,
        session_format=weights.lib.LLAMA_SESSION_VERSION,
    )
