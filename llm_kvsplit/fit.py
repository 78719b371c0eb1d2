"""How much context fits in how much memory."""

from __future__ import annotations

import sys
from pathlib import Path

from . import gguf
from .errors import KvsplitError
from .kvtypes import CachePair


def memory_bytes() -> int:
    """Bytes a new cache may take at most: what the system can give without swapping.

    On macOS, where memory that counts as used is compressed or dropped on demand, all that is installed.
    """
    import psutil

    memory = psutil.virtual_memory()
    return memory.available if sys.platform == "linux" else memory.total


def refuse_unless_it_fits(model: Path, pair: CachePair, n_ctx: int) -> None:
    """Raise KvsplitError, with the numbers and what would fit, when the cache alone is larger than the memory.

    llama.cpp asks the system for the memory and then writes to all of it: where the system promises more than it
    has (Linux does), that ends with the process killed.
    """
    header = gguf.read(model)
    per_token = gguf.kv_bytes_per_token(header, pair.k, pair.v)
    if per_token is None or header.sliding_window:
        return
    have, wanted = memory_bytes(), per_token * n_ctx
    if wanted <= have:
        return
    raise KvsplitError(
        f"A {pair} cache of {n_ctx} tokens takes {gibibytes(wanted)} and there are {gibibytes(have)} of memory: "
        f"{_what_fits(header, pair, n_ctx, have)}"
    )


def _what_fits(header: gguf.Gguf, pair: CachePair, n_ctx: int, have: int) -> str:
    smaller = [
        CachePair.from_bits(key_bits, value_bits)
        for key_bits, value_bits in ((8, 8), (8, 4), (4, 4))
        if key_bits <= pair.k.bits and value_bits <= pair.v.bits
    ]
    for candidate in smaller:
        per_token = gguf.kv_bytes_per_token(header, candidate.k, candidate.v)
        if per_token and per_token * n_ctx <= have and not gguf.refusal(header, candidate.k, candidate.v):
            return f"-o kv_key_bits {candidate.k.bits} -o kv_value_bits {candidate.v.bits} would fit."
    per_token = gguf.kv_bytes_per_token(header, pair.k, pair.v)
    assert per_token
    # Half, since weights and buffers want room too.
    return f"-o n_ctx {int(have / 2 / per_token)} would fit."


def gibibytes(n: float) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.2f} MiB"
