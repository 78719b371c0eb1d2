"""A KV cache and the tokens in it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import machine
from ..builds import pair_speed
from ..errors import KvsplitError
from ..kvtypes import Cache, LayerMap
from . import interrupts, layer_types, library, log_lines, servers
from .weights import Weights

if TYPE_CHECKING:
    import numpy as np

    from .tap import Tap

#: llama.cpp rounds a context up to this many tokens (llama-context.cpp, GGML_PAD of n_ctx).
PADDING = 256

# enum llama_flash_attn_type in llama.h
_ABORTED = 2  # what llama_decode returns then (llama.h)
FLASH_ATTN = {None: -1, False: 0, True: 1}


#: Numbers from here on stand in a list of tokens for what was a picture or sound, one for each cell of the cache; no
#: vocabulary reaches them. They come from the hash of its bytes, so that equal numbers mean equal media.
MEDIA = 1 << 31


@dataclass(frozen=True)
class Span:
    """Where a stretch of a picture or of sound lies in a list of tokens."""

    start: int
    #: Cells of the cache.
    length: int
    #: Positions that it takes, which are fewer where a model counts in two dimensions (M-RoPE).
    positions: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class ContextOptions:
    #: What keys and values are stored in: a pair, or a map of layers.
    cache: Cache
    #: Tokens the cache holds.
    n_ctx: int
    n_threads: int | None = None
    #: None leaves it to llama.cpp, which uses it where it can.
    flash_attn: bool | None = None
    #: Conversations that share the cells.
    n_seq_max: int = 1


class ContextError(KvsplitError):
    """llama.cpp cannot make the cache; ``cause`` is its own words."""

    def __init__(
        self,
        options: ContextOptions,
        cause: str,
        mend: str = "Try a smaller n_ctx, or other kv_key_bits, kv_value_bits or kv_layers.",
    ) -> None:
        super().__init__(f"No {options.cache} cache of {options.n_ctx} tokens could be made: {cause}. {mend}")
        self.cause = cause


def refuse_unknown(options: ContextOptions) -> None:
    """Raise ContextError for types that the library lacks."""
    if names := library.lacking(options.cache):
        mend = f"'{pair_speed.MEND}' gets a build of the patch series, which has all types."
        raise ContextError(options, f"this library has no {names}", mend)


class Context:
    """llama.cpp's context: one sequence of tokens and its KV cache.

    ``tokens`` are the tokens whose keys and values stand in the cache, ``spans`` says which of them are media. Raises ContextError when
    the cache cannot be made.
    """

    def __init__(self, weights: Weights, options: ContextOptions, tap: Tap | None = None) -> None:
        self.weights, self.lib, self.tap = weights, weights.lib, tap
        self.tokens: list[int] = []
        self.spans: list[Span] = []
        self._open(options)

    def _open(self, options: ContextOptions) -> None:
        refuse_unknown(options)
        params = self.lib.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max, params.kv_unified = options.n_seq_max, options.n_seq_max > 1
        threads = options.n_threads or machine.physical_cores()
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTN[options.flash_attn]
        cache = library.stored(options.cache)
        pair = cache.rest if isinstance(cache, LayerMap) else cache
        params.type_k, params.type_v = pair.k.ggml_id, pair.v.ggml_id
        # Layers with a sliding window keep the window only, as in llama.cpp's own programs: with all of the context
        # kept, gemma3's cache would be several times as large. What that costs is in keep_prefix.
        params.swa_full = False
        if self.tap is not None:
            params.cb_eval = self.tap.callback
        if isinstance(cache, LayerMap):
            layer_types.hand_over(self.weights, cache)
        with library.log.capture() as lines:
            pointer = self.lib.llama_init_from_model(self.weights.pointer, params)
        if not pointer:
            servers.refuse(self._far, lines)
            cause = library.error_text(lines) or "llama.cpp gave no reason"
            raise ContextError(options, cause)
        self.pointer, self.options = pointer, options
        self.memory = self.lib.llama_get_memory(pointer)
        self.n_ctx: int = self.lib.llama_n_ctx(pointer)
        texts = [text for _, text in lines]
        parts = log_lines.cache_parts(texts, cached=bool(self.memory) and not self.weights.recurrent)
        self.kv_size = log_lines.kv_size(parts, self.weights.values_per_layer)
        self.buffers = log_lines.buffers(texts, recurrent=self.weights.recurrent or self.weights.hybrid)
        self.graph_splits = log_lines.graph_splits(texts)
        #: Layer -> name of the device that holds its keys and values, where the log says so.
        self.layer_devices = {layer: name for part in parts or [] for layer, name in part.devices.items()}
        #: Where attention runs: "GPU", "CPU", or None if the log does not settle it.
        self.attention = log_lines.attention_place(parts, self.graph_splits)

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_free(self.pointer)
            self.pointer = None

    def keep_prefix(self, prompt: list[int]) -> int:
        """Drop from the cache what ``prompt`` does not begin with; return how many tokens stay.

        At least the last token of the prompt is left to evaluate, since its logits are wanted.
        """
        keep = common_prefix(self.tokens, prompt)
        keep = min(keep, len(prompt) - 1)
        # A picture is evaluated as a whole.
        keep = next((span.start for span in self.spans if span.start < keep < span.end), keep)
        if keep < len(self.tokens):
            position = self.position(keep)
            removed = self.lib.llama_memory_seq_rm(self.memory, 0, position, -1)
            if not removed or not self._window_reaches(position):
                # A recurrent state cannot go back, and a sliding window has forgotten what came before it:
                # computing anew is slower than a wrong answer, but it is right.
                self.clear()
                keep = 0
        del self.tokens[keep:]
        self.spans = [span for span in self.spans if span.end <= keep]
        return keep

    def position(self, n: int) -> int:
        """The position of the ``n``-th token."""
        return n - sum(span.length - span.positions for span in self.spans if span.end <= n)

    def _window_reaches(self, n: int) -> bool:
        if not self.weights.n_swa or n == 0:
            return True
        oldest = self.lib.llama_memory_seq_pos_min(self.memory, 0)
        return 0 <= oldest <= max(0, n - self.weights.n_swa)

    def evaluate(
        self,
        tokens: list[int],
        stopped: Callable[[], bool] | None = None,
        done: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        """Append ``tokens`` to the cache, in batches. Once ``stopped()`` is true, no more are evaluated.

        It is asked within a batch as well, which may take many seconds. ``done`` gets the number of tokens after each
        batch. Raises KvsplitError when llama.cpp refuses. However it ends, the cache holds what ``self.tokens`` says.
        """
        size = self.lib.llama_n_batch(self.pointer)
        for start in range(0, len(tokens), size):
            if stopped is not None and stopped():
                return
            part = tokens[start : start + size]
            with interrupts.held():  # a batch that is in the cache is counted, too
                appended = self._append(part, stopped, last=start + size >= len(tokens))
            if not appended:
                return
            done(len(part))

    def _append(self, part: list[int], stopped: Callable[[], bool] | None, last: bool) -> bool:
        """Append a batch. False, and nothing appended, when it was stopped. Raises KvsplitError when llama.cpp refuses."""
        array = (ctypes.c_int32 * len(part))(*part)
        batch = self.lib.llama_batch_get_one(array, len(part))
        first = self.position(len(self.tokens))
        if first != len(self.tokens):  # llama.cpp counts cells
            batch.pos = (ctypes.c_int32 * len(part))(*range(first, first + len(part)))
        with library.log.capture() as lines, self._stopping(stopped if len(part) > 1 else None):
            status = self.lib.llama_decode(self.pointer, batch)
            if self._far and last:
                self.synchronize()  # only then is a server known to have done its share
        if self._far and servers.given_up(self._far):
            return False
        servers.check(self._far)
        if status != 0:
            self._drop_unfinished()
        if status == _ABORTED:
            return False
        if status != 0:
            cause = library.error_text(lines) or f"status {status}"
            raise KvsplitError(
                f"llama.cpp could not evaluate {len(part)} tokens after {len(self.tokens)} in a context of "
                f"{self.n_ctx}: {cause}."
            )
        self.tokens += part
        return True

    @contextmanager
    def _stopping(self, stopped: Callable[[], bool] | None) -> Iterator[None]:
        """Have ggml ask ``stopped`` between the operations of a graph. For a single token that would cost too much."""
        if stopped is None:
            yield
            return
        ask = self.lib.ggml_abort_callback(lambda _data: stopped())
        self.lib.llama_set_abort_callback(self.pointer, ask, None)
        try:
            yield
        finally:
            self.lib.llama_set_abort_callback(self.pointer, self.lib.ggml_abort_callback(), None)

    def _drop_unfinished(self) -> None:
        """Take out of the cache what llama.cpp left there of a batch that it did not finish."""
        if not self.lib.llama_memory_seq_rm(self.memory, 0, self.position(len(self.tokens)), -1):
            self.clear()  # a recurrent state cannot go back

    def evaluate_media(self, numbers: list[int], positions: int, decode: Callable[[int], bool]) -> bool:
        """Append media, which ``decode`` puts into the cache from a position on. False, and nothing appended, when it
        cannot."""
        start = len(self.tokens)
        if not decode(self.position(start)):
            servers.check(self._far)
            self._drop_unfinished()
            return False
        self.tokens += numbers
        self.spans.append(Span(start, len(numbers), positions))
        return True

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Append ``tokens``, at most a batch, and return the logits after each: float64, shape (tokens, n_vocab)."""
        import numpy as np

        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, len(self.tokens) + i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, True
            with library.log.capture() as lines:
                status = self.lib.llama_decode(self.pointer, batch)
                self.synchronize()
        finally:
            self.lib.llama_batch_free(batch)
        servers.check(self._far)
        if status != 0:
            raise KvsplitError(
                f"llama.cpp could not evaluate {len(tokens)} tokens: {library.error_text(lines) or status}."
            )
        self.tokens += tokens
        shape = (len(tokens), self.weights.n_vocab)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.pointer), shape).astype(np.float64)

    @property
    def _far(self) -> tuple[str, ...]:
        """The servers that hold a part of it."""
        return self.weights.options.servers

    def synchronize(self) -> None:
        """Wait until everything asked for is computed."""
        self.lib.llama_synchronize(self.pointer)

    def grow(self, n_ctx: int) -> None:
        """Make room for ``n_ctx`` tokens; what is in the cache stays in it.

        Both caches exist for a moment. If the new one cannot be made, the old one stays as it was.
        """
        state = self.state() if self.tokens else None
        old, old_tokens, old_spans = self.pointer, self.tokens, self.spans
        self._open(replace(self.options, n_ctx=n_ctx))
        self.lib.llama_free(old)
        if state is not None and not self.restore(state, old_tokens, old_spans):
            if old_spans:
                raise KvsplitError(f"A cache with media in it could not be made larger: use -o n_ctx {n_ctx}.")
            self.evaluate(old_tokens)

    def clear(self) -> None:
        """Empty the cache."""
        self.lib.llama_memory_clear(self.memory, False)
        self.tokens, self.spans = [], []

    def state(self) -> np.ndarray:
        """llama.cpp's state of the sequence: its bytes, uint8."""
        import numpy as np

        size = self.lib.llama_state_seq_get_size(self.pointer, 0)
        state = np.empty(size, np.uint8)
        written = self.lib.llama_state_seq_get_data(self.pointer, _bytes_of(state), size, 0)
        servers.check(self._far)
        if written != size:
            raise KvsplitError(f"llama.cpp wrote {written} of the {size} bytes of its state.")
        return state

    def restore(self, state: np.ndarray, tokens: list[int], spans: Sequence[Span] = ()) -> bool:
        """Put a state from ``state()`` into the empty cache, for the same model and cache types.

        False, and an empty cache, when llama.cpp does not take it.
        """
        read = self.lib.llama_state_seq_set_data(self.pointer, _bytes_of(state), len(state), 0)
        self.tokens, self.spans = list(tokens), list(spans)
        servers.check(self._far)
        latest = self.position(len(tokens)) - 1
        if read != len(state) or self.lib.llama_memory_seq_pos_max(self.memory, 0) != latest:
            self.clear()
            return False
        return True


def _bytes_of(array: np.ndarray) -> ctypes._Pointer[ctypes.c_uint8]:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens ``a`` and ``b`` begin with in common."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])
