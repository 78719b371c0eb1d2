"""The rows of a KV cache out of llama.cpp's state of a sequence, and ggml's own quantizers for them.

Source: state_write_meta and state_write_data in llama-kv-cache.cpp, for a cache without a window whose values are not
transposed, which is what flash attention makes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import KvsplitError
from ..kvtypes import F16, TYPES, CacheType
from . import library

if TYPE_CHECKING:
    from .context import Context

_TYPES = {cache_type.ggml_id: cache_type for cache_type in TYPES}


@dataclass(frozen=True)
class Rows:
    """One layer's keys or values: a view into the state, shape (tokens, bytes of a row)."""

    cache_type: CacheType
    view: np.ndarray


@dataclass(frozen=True)
class SequenceState:
    """A sequence's state and, by layer, the views into it."""

    data: np.ndarray
    k: list[Rows]
    v: list[Rows]


def parse(data: np.ndarray, n_tokens: int) -> SequenceState:
    """Find the rows in ``Context.state()``. Raises KvsplitError for a cache that is not a plain one."""
    reader = _Reader(data)
    reader.take("<u4", 3)  # magic, sequence, number of streams follow one another
    if reader.one("<u4") != n_tokens:
        raise _not_plain()
    reader.take("<i4", 3 * n_tokens)  # position, number of sequences, sequence
    transposed, n_layer, *_ = reader.take("<u4", _head_words()).tolist()
    if transposed or n_layer > 4096:
        raise _not_plain()
    k = [reader.rows(n_tokens) for _ in range(n_layer)]
    v = [reader.rows(n_tokens) for _ in range(n_layer)]
    if reader.at != len(data):
        raise _not_plain()
    return SequenceState(data, k, v)


def repeated(data: np.ndarray, n_tokens: int, times: int) -> np.ndarray:
    """The state of a sequence ``times`` as long, whose rows are those of ``data`` again and again; uint8.

    Raises KvsplitError for a cache that is not a plain one.
    """
    state, total = parse(data, n_tokens), n_tokens * times
    cells = np.ones((total, 3), "<i4")
    cells[:, 0], cells[:, 2] = np.arange(total), 0  # position, number of sequences, sequence
    head = np.concatenate([data[:12].view("<u4"), [total]]).astype("<u4")
    parts = [head, cells, data[16 + 12 * n_tokens :][: 4 * _head_words()]]
    for rows in (*state.k, *state.v):
        parts.append(np.array([rows.cache_type.ggml_id], "<i4"))
        parts.append(np.array([rows.view.shape[1]], "<u8"))
        parts.append(np.tile(rows.view, (times, 1)))
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in parts])


def _head_words() -> int:
    """The numbers before the rows: transposed, layers, and since version 4 the sizes of the rotations of K and of V."""
    return 4 if library.load().LLAMA_STATE_SEQ_VERSION >= 4 else 2


def _not_plain() -> KvsplitError:
    return KvsplitError(
        "This model's cache is not one of plain keys and values (it has a sliding window, a recurrent state or latent "
        "attention), so its layers cannot be measured alone: leave out --layers."
    )


class _Reader:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def take(self, dtype: str, count: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize * count
        if self.at + size > len(self.data):
            raise _not_plain()
        self.at += size
        return self.data[self.at - size : self.at].view(dtype)

    def one(self, dtype: str) -> int:
        return int(self.take(dtype, 1)[0])

    def rows(self, n_tokens: int) -> Rows:
        cache_type = _TYPES.get(self.one("<i4"))
        size = self.one("<u8")
        if cache_type is None or not 0 < size < 1 << 24:
            raise _not_plain()
        return Rows(cache_type, self.take("u1", size * n_tokens).reshape(n_tokens, size))


def values(rows: Rows) -> np.ndarray:
    """The rows as float32, shape (tokens, values of a row)."""
    if rows.cache_type == F16:
        return np.ascontiguousarray(rows.view).view("<f2").astype(np.float32)
    blocks = np.ascontiguousarray(rows.view)
    n = blocks.size // rows.cache_type.bytes_per_block * rows.cache_type.block
    out = np.empty(n, np.float32)
    dequantize = getattr(library.load(), f"dequantize_row_{rows.cache_type.name}")
    dequantize(blocks.ctypes.data, _floats(out), n)
    return out.reshape(len(rows.view), -1)


def rounded(floats: np.ndarray, cache_type: CacheType) -> np.ndarray:
    """What is left of float32 rows that were stored as ``cache_type``, as a cache stores them; same shape.

    ggml_quantize_chunk would not do: it rounds as files of weights are rounded.
    """
    floats = np.ascontiguousarray(floats, np.float32)
    if cache_type == F16:
        return floats.astype("<f2").astype(np.float32)
    n_rows, n = floats.shape
    blocks = np.empty((n_rows, n // cache_type.block * cache_type.bytes_per_block), np.uint8)
    lib, name = library.load(), cache_type.name
    quantize = getattr(lib, f"quantize_row_kv_{name}_ref", None) or getattr(lib, f"quantize_row_{name}_ref")
    quantize(_floats(floats), blocks.ctypes.data, floats.size)
    return values(Rows(cache_type, blocks))


def _floats(array: np.ndarray) -> ctypes._Pointer[ctypes.c_float]:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def rotation(head_dim: int, *, keys: bool) -> int:
    """Width of the Hadamard matrix that llama.cpp turns a quantized side's heads with; 0 where it does not.

    Source: attn_rot_k, build_input_k_rot and build_input_v_rot in llama-kv-cache.cpp.
    """
    if head_dim % 64 or not library.rotates():
        return 0
    width = 64
    while keys and head_dim % (2 * width) == 0:
        width *= 2
    return width


def rotated(floats: np.ndarray, width: int) -> np.ndarray:
    """The rows with every ``width`` values turned; twice is once back, since the matrix is its own inverse."""
    if not width:
        return floats
    matrix = np.ones((1, 1))
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= width**0.5
    return (floats.reshape(-1, width) @ matrix.astype(np.float32)).reshape(floats.shape)


def of_context(context: Context) -> SequenceState:
    """The rows of a context, as a copy. Raises KvsplitError for a cache that is not a plain one."""
    return parse(context.state(), len(context.tokens))
