"""A library that came without definitions, held against those it is to be used through, as far as it can be asked.

Its headers would say all; a library says less. What is known of it: which functions it exports (binding asks for each),
how many bytes its structures have, where the machine lets one see that (64-bit x86), and whether the defaults that it
fills them with stand where the definitions have those fields. What its functions take is not to be seen.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

#: Defaults that have been the same from llama-cpp-python 0.3.28's llama.cpp to build b11549, by structure.
#: Source: llama_context_default_params() and its like, in llama-context.cpp, llama-model.cpp and llama-quant.cpp.
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama_context": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_threads": 4,
        "n_threads_batch": 4,
        "flash_attn_type": -1,
        "type_k": 1,
        "type_v": 1,
        "offload_kqv": 1,
        "swa_full": 1,
    },
    "llama_model": {"n_gpu_layers": -1, "main_gpu": 0, "use_extra_bufts": 1, "no_alloc": 0, "vocab_only": 0},
    "llama_model_quantize": {"nthread": 0, "ftype": 7, "quantize_output_tensor": 1, "only_copy": 0},
    "llama_sampler_chain": {"no_perf": 1},
}
#: Bytes behind a structure that a larger one would be written into.
_BEHIND = 4096
#: Result structures up to this size come back in registers.
_REGISTERS = 16


def sizes_can_be_seen() -> bool:
    """Whether a function that returns a structure is handed its place as an ordinary first argument.

    Source: the System V ABI for x86-64, 3.2.3. On ARM the place has a register of its own, which ctypes cannot set.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32"


def contradictions(lib: Any) -> list[str]:
    """Where a library is seen to be another than ``lib``, which ``bindings.bind`` made, takes it for."""
    clauses = []
    for name, defaults in _DEFAULTS.items():
        function = getattr(lib, f"{name}_default_params")
        # Looked at first: a larger structure than is known would be written over what is behind the place for it.
        clause = _size(function, function.restype, ()) or _values(function(), defaults)
        clauses += [clause] if clause else []
    clause = _size(lib.llama_batch_get_one, lib.llama_batch, (None, 0)) or _batch(lib)
    return [*clauses, clause] if clause else clauses


def _size(function: Any, struct: type[ctypes.Structure], arguments: tuple[Any, ...]) -> str:
    """Compare the bytes that a function writes as its result with those of the structure; empty where they are the same."""
    size = ctypes.sizeof(struct)
    if size <= _REGISTERS or not sizes_can_be_seen():
        return ""
    first, second = (_result(function, arguments, size + _BEHIND, fill) for fill in (0x55, 0xAA))
    written = [index for index, pair in enumerate(zip(first, second)) if pair[0] == pair[1]]
    covered = {
        at
        for name, *_ in struct._fields_
        for at in range(getattr(struct, name).offset, getattr(struct, name).offset + getattr(struct, name).size)
    }
    end = max(written, default=-1) + 1
    if end > size or not covered <= set(written):
        return f"struct {struct.__name__} has {size} bytes there, and the library writes {end}"
    return ""


def _result(function: Any, arguments: tuple[Any, ...], room: int, fill: int) -> bytes:
    """What a function writes into the place for its result, which held only ``fill`` before."""
    place = ctypes.create_string_buffer(bytes([fill]) * room, room)
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32][: 1 + len(arguments)]
    ctypes.CFUNCTYPE(ctypes.c_void_p, *kinds)(address)(ctypes.addressof(place), *arguments)
    return place.raw


def _values(params: ctypes.Structure, defaults: dict[str, int]) -> str:
    for name, *_ in params._fields_:
        at = getattr(type(params), name)
        raw = bytes(params)[at.offset : at.offset + at.size]
        value = getattr(params, name)
        if isinstance(value, bool) and raw not in (b"\0", b"\1"):
            return f"{type(params).__name__}.{name} holds {raw[0]}, which is neither true nor false"
        if name in defaults and int(value) != defaults[name]:
            return f"{type(params).__name__}.{name} is {int(value)} at first, where {defaults[name]} is expected"
    return ""


def _batch(lib: Any) -> str:
    """A batch of two tokens has room for each thing that there is of a token."""
    batch = lib.llama_batch_init(2, 0, 1)
    lists = [name for name in ("token", "pos", "n_seq_id", "seq_id", "logits") if not getattr(batch, name)]
    if batch.n_tokens or lists or not batch.seq_id[0] or not batch.seq_id[1]:
        return "struct llama_batch is laid out otherwise"
    lib.llama_batch_free(batch)
    return ""
