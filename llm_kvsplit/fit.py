"""How much context fits in how much memory.

llama.cpp can be asked: a model opened with ``no_alloc`` reads its header, and a context on it says what cache and
buffers it would allocate, for any architecture and cache type, in milliseconds and without the memory. So nothing about
sliding windows, latent attention or recurrent layers is modelled here. The weights are the sum of the file's tensors.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import gguf
from .errors import KvsplitError
from .kvtypes import Cache, CachePair, LayerMap
from .units import size

if TYPE_CHECKING:
    from .engine.weights import LoadOptions, Weights

#: Twice this many tokens is the most that llama.cpp is asked for, since its lists of cells are real; beyond, everything
#: grows evenly.
_EVEN_FROM = 1 << 19


@dataclass(frozen=True)
class Footprint:
    """Bytes that a model takes with one context."""

    cache: Cache
    n_ctx: int
    weights: int
    kv: int
    #: Compute and output buffers, and the state of recurrent layers.
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.buffers


def memory_bytes() -> int:
    """Bytes of memory that a new cache may take at most: what the system can give without swapping.

    On macOS, where memory that counts as used is compressed or dropped on demand, all that is installed.
    """
    import psutil

    memory = psutil.virtual_memory()
    return memory.available if sys.platform == "linux" else memory.total


def device_memory(endpoints: Sequence[str] = ()) -> tuple[int, str]:
    """Bytes that models may take where they run, and where that is.

    The free memory of all GPUs, which on a Mac is Metal's recommended working set; without one, ``memory_bytes``.
    With ``endpoints``, what those servers have free comes to it.
    """
    from .engine import library, servers

    if endpoints:
        here, where = device_memory()
        return here + servers.free_bytes(endpoints), f"{where} and {' and '.join(endpoints)}"
    return memory_of_gpus(library.devices()) or (memory_bytes(), "this machine")


def memory_of_gpus(devices: Sequence[dict[str, Any]]) -> tuple[int, str] | None:
    """Free bytes of those of ggml's ``devices`` that llama.cpp spreads layers over, and their names; None without a GPU.

    Those are all GPUs; without one, the first that is part of a processor (llama_model_load_from_file_impl in llama.cpp).
    """
    usable = [device for device in devices if device["total_bytes"]]
    gpus = [device for device in usable if device["type"] == "gpu"]
    gpus = gpus or [device for device in usable if device["type"] == "igpu"][:1]
    if not gpus:
        return None
    names = Counter(device["description"] for device in gpus)
    where = " and ".join(name if count == 1 else f"{count} {name}" for name, count in names.items())
    return sum(device["free_bytes"] or device["total_bytes"] for device in gpus), where


#: Tokens of context that layers are spread over machines for, unless a person says how many there will be.
_SPREAD_FOR = 8192
#: Pairs to propose where memory is short.
SMALLER = tuple(CachePair.from_bits(*bits) for bits in ((8, 8), (8, 4), (4, 4)))
#: What a server keeps free for buffers, and for what its system needs.
_SPARE = 0.1


@functools.cache  # what is free changes once the model is loaded
def layers_on_servers(model: Path, endpoints: tuple[str, ...], cache: Cache, n_ctx: int | None) -> int:
    """How many layers, counted from the last, servers and this machine's GPUs have room for with their cache.

    -1 for all, at least 1. llama.cpp counts the output as one more. Raises ServerError for a server that cannot be used.
    """
    from .engine import library, servers

    header = gguf.read(model)
    here, _ = memory_of_gpus(library.devices()) or (0, "")
    free = (1 - _SPARE) * (here + servers.free_bytes(endpoints))
    needed = header.size + _cache_bytes(header, cache, n_ctx or min(header.n_ctx_train or _SPREAD_FOR, _SPREAD_FOR))
    return -1 if needed <= free else max(1, int((header.n_layer + 1) * free / needed))


def _cache_bytes(header: gguf.Gguf, cache: Cache, n_ctx: int) -> int:
    """Bytes of a cache that keeps all tokens: sliding windows and latent attention take less."""
    heads = max(header.n_head_kv, default=0)
    values = [heads * header.head_dim_k] * header.n_layer, [heads * header.head_dim_v] * header.n_layer
    return LayerMap.of(cache.pairs(header.n_layer)).bytes(n_ctx, values)


@contextmanager
def simulation(options: LoadOptions) -> Iterator[Weights]:
    """The model without its memory. Raises KvsplitError for a file that llama.cpp cannot load."""
    from .engine import servers
    from .engine.weights import Weights

    with servers.interruptible() if options.servers else nullcontext():
        # Repacked weights change no cache or buffer, and ggml aborts when it plans latent attention with its AMX buffers.
        weights = Weights(replace(options, simulate=True, use_extra_bufts=False))
        try:
            yield weights
        finally:
            weights.close()


def footprint(weights: Weights, cache: Cache, n_ctx: int, n_seq_max: int = 1) -> Footprint:
    """What a (simulated) model takes with ``n_ctx`` tokens of context, which so many conversations share.

    Raises KvsplitError when llama.cpp refuses.
    """
    from .engine.context import Context, ContextOptions

    if n_ctx > 2 * _EVEN_FROM:
        near, far = (footprint(weights, cache, n, n_seq_max) for n in (_EVEN_FROM, 2 * _EVEN_FROM))
        steps = n_ctx / _EVEN_FROM - 2
        more_kv, more_buffers = (far.kv - near.kv) * steps, (far.buffers - near.buffers) * steps
        return replace(far, n_ctx=n_ctx, kv=round(far.kv + more_kv), buffers=round(far.buffers + more_buffers))
    context = Context(weights, ContextOptions(cache, n_ctx, n_seq_max=n_seq_max))
    try:
        kv, buffers = context.kv_size.bytes, context.buffers.total
    finally:
        context.close()
    if kv is None or buffers is None:
        raise KvsplitError(
            "This llama.cpp says what it allocates in other words than those known here: use a build of the patch series "
            "('llm kvsplit backend list') or a newer llm-kvsplit."
        )
    return Footprint(cache, context.n_ctx, weights.size, kv, buffers)


def layer_devices(weights: Weights) -> dict[int, str]:
    """Layer -> name of the device that a (simulated) model keeps its keys and values on."""
    from .engine.context import PADDING, Context, ContextOptions

    context = Context(weights, ContextOptions(CachePair.from_bits(16, 16), PADDING))
    context.close()
    return context.layer_devices


def largest(weights: Weights, cache: Cache, budget: int) -> Footprint | None:
    """The longest context within ``budget`` bytes, at most what the model was trained for; None if none fits."""
    from .engine.context import PADDING

    longest = footprint(weights, cache, weights.n_ctx_train)
    if longest.total <= budget:
        return longest
    # Bytes grow with the context, so halving finds the last that fits; counted in steps of PADDING tokens.
    fits, too_many, best = 0, -(-weights.n_ctx_train // PADDING), None
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        candidate = footprint(weights, cache, middle * PADDING)
        if candidate.total <= budget:
            fits, best = middle, candidate
        else:
            too_many = middle
    return best


def refuse_unless_it_fits(model: Path, cache: Cache, n_ctx: int, endpoints: Sequence[str] = ()) -> None:
    """Raise KvsplitError, with the numbers and what would fit, when the cache alone is larger than the memory.

    llama.cpp asks the system for the memory and then writes to all of it: where the system promises more than it
    has (Linux does), that ends with the process killed.
    """
    from .engine import servers
    from .engine.weights import LoadOptions

    memory = memory_bytes() + servers.free_bytes(endpoints)
    # Asking takes as long as reading the vocabulary: half a second for a large one. Most caches are far from any limit.
    if _largest_cache(gguf.read(model), n_ctx) < memory:
        return
    with simulation(LoadOptions(model)) as weights:
        taken = footprint(weights, cache, n_ctx).kv
        if taken <= memory:
            return
        raise KvsplitError(
            f"A {cache} cache of {n_ctx} tokens takes {size(taken)} and there are {size(memory)} of memory: "
            f"{_smaller_choice(weights, cache, n_ctx, memory)}"
        )


def _largest_cache(header: gguf.Gguf, n_ctx: int) -> int:
    """More bytes than any cache of this model takes: f16 without sliding windows, four times over."""
    heads = max(header.n_head_kv, default=0)
    return 4 * 2 * n_ctx * header.n_layer * heads * (header.head_dim_k + header.head_dim_v) + 2**30


def options_text(pair: CachePair) -> str:
    """What a person writes for it."""
    return " ".join(f"-o {name} {value}" for name, value in pair.options().items())


def _smaller_choice(weights: Weights, cache: Cache, n_ctx: int, memory: int) -> str:
    header = weights.header
    pairs = cache.pairs(header.n_layer)
    smaller = [
        candidate
        for candidate in SMALLER
        if any(candidate.k.bits <= pair.k.bits and candidate.v.bits <= pair.v.bits for pair in pairs)
    ]
    for candidate in smaller:
        if gguf.refusal(header, candidate):
            continue
        if footprint(weights, candidate, n_ctx).kv <= memory:
            return f"{options_text(candidate)} would fit."
    # Half, since weights and buffers want room too.
    fitting = largest(weights, cache, memory // 2 + weights.size)
    return f"-o n_ctx {fitting.n_ctx} would fit." if fitting else "close other programs, or use a smaller model."
