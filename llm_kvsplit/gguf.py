"""What a GGUF file says about its model, from the header alone.

The ``gguf`` package can do this too, but builds numpy views of every token: seconds to minutes, and
up to a gigabyte of memory, for a large vocabulary. Here arrays of strings are stepped over.
Layout: ggml/include/gguf.h.
"""

import os
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import KvsplitError
from .kvtypes import F16, CacheType, bytes_per_token

MAGIC = b"GGUF"

#: GGUF value type -> struct format of one value. 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

#: ggml type -> name, values in a block, bytes of a block (ggml.c: type_traits).
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

# No honest file comes near these; they keep a damaged one from costing memory or minutes.
MAX_HEADER = 1 << 28
MAX_ENTRIES = 1 << 18
MAX_ARRAY = 1 << 24
MAX_KEPT_ARRAY = 1 << 12
MAX_LAYERS = 1 << 12

#: Part 1 of 3 of a split model is named model-00001-of-00003.gguf.
PART = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True)
class Layer:
    """The shape of one layer's part of the KV cache; no heads where the layer has none."""

    n_head_kv: int
    head_dim_k: int
    #: 0 with multi-head latent attention, where llama.cpp caches only keys.
    head_dim_v: int


@dataclass(frozen=True)
class Gguf:
    """What the header says. A number that it does not state is 0."""

    path: Path
    #: More than one where the model is split; ``path`` is the first.
    files: tuple[Path, ...]
    #: Bytes of all files together.
    size: int
    architecture: str
    name: str | None
    #: "model" unless the file says that it is an adapter, a projector (mmproj), …
    kind: str
    #: The ggml type that most bytes of the weights have, such as Q4_K; None without tensors.
    weights: str | None
    n_tensors: int
    n_embd: int
    n_head: int
    n_ctx_train: int
    layers: tuple[Layer, ...]
    sliding_window: int | None
    #: Layers with a state of fixed size beside or instead of a KV cache.
    recurrent: bool
    #: Multi-head latent attention: llama.cpp wants the same type for keys and values.
    mla: bool
    #: False for models that embed text rather than write it.
    causal: bool
    chat_template: str | None
    #: Why ``kv_bytes_per_token`` cannot say: what the model caches beyond plain keys and values.
    unmodelled: str | None

    @property
    def n_layer(self) -> int:
        return len(self.layers)

    @property
    def n_head_kv(self) -> tuple[int, ...]:
        return tuple(layer.n_head_kv for layer in self.layers)

    @property
    def head_dim_k(self) -> int:
        return max((layer.head_dim_k for layer in self.layers), default=0)

    @property
    def head_dim_v(self) -> int:
        return max((layer.head_dim_v for layer in self.layers), default=0)


def kv_bytes_per_token(model: Gguf, k: CacheType, v: CacheType) -> float | None:
    """Bytes of KV cache a token takes with keys stored as ``k`` and values as ``v``; None where ``unmodelled``.

    Layers with a sliding window count in full: an upper bound for a cache that keeps only the window.
    """
    if model.unmodelled:
        return None
    return sum(bytes_per_token(k, v, [each.n_head_kv], each.head_dim_k, each.head_dim_v) for each in model.layers)


def refusal(model: Gguf, k: CacheType, v: CacheType) -> str | None:
    """Why llama.cpp cannot run this model with these cache types, as the end of a sentence; None if it can.

    Source: llama_init_from_model in llama-context.cpp.
    """
    if model.mla and k is not v:
        return "uses multi-head latent attention, where keys and values must have the same bits"
    for side, cache, dims in (
        ("key", k, {layer.head_dim_k for layer in model.layers}),
        ("value", v, {layer.head_dim_v for layer in model.layers}),
    ):
        for dim in sorted(dims):
            if dim % cache.block:
                return (
                    f"has {side} heads of {dim} values, which blocks of {cache.block} ({cache.name}) "
                    f"do not divide: use {F16.bits} {side} bits"
                )
    return None


def part_names(name: str) -> list[str]:
    """All file names of the split model that ``name`` is a part of; just ``name`` for a whole file."""
    match = PART.match(name)
    if not match:
        return [name]
    return [f"{match['stem']}-{i:05}-of-{match['count']}.gguf" for i in range(1, int(match["count"]) + 1)]


def read(path: Path) -> Gguf:
    """Read the header of ``path`` (and of its other parts, if it is split) and check that no data is missing.

    Raises KvsplitError: missing, empty, not GGUF, a version or byte order that llama.cpp does not read,
    damaged, cut short (with the number of bytes missing), not the first part, or a part missing.
    """
    path = Path(path)
    first = _read_file(path)
    meta, files, weights, size = first.meta, [path], Counter(first.weights), first.size
    n_tensors = first.n_tensors

    count = _int(path, meta, "split.count")
    if count > 1:
        names = part_names(path.name)
        if _int(path, meta, "split.no"):
            raise KvsplitError(f"{path} is one part of a split model: give its first part, {names[0]}, instead.")
        if len(names) != count or names[0] != path.name:
            raise KvsplitError(
                f"{path} is the first of {count} parts: give the parts back the names they were published with, "
                f"ending in -00001-of-{count:05}.gguf and so on, since llama.cpp finds them by name."
            )
        files = [path.with_name(name) for name in names]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise KvsplitError(f"{path} is split and {', '.join(missing)} is missing: put all parts into one folder.")
        for part in map(_read_file, files[1:]):
            weights.update(part.weights)
            size += part.size
            n_tensors += part.n_tensors

    return _describe(path, meta, files=tuple(files), size=size, weights=weights, n_tensors=n_tensors)


# What the keys mean. Sources: llama_model_base::load_hparams and create_memory in llama-model.cpp,
# load_arch_hparams in models/*.cpp.

#: Keys of models that cache more, or other things, than keys and values of every layer and token.
UNMODELLED = {
    "attention.indexer.head_count": "the keys of a sparse-attention indexer",
    "attention.compress_ratios": "a compressed cache",
    "decoder_block_count": "cross attention to an encoder",
    "hrm.layers_per_stack": "a cache for each round through its layers",
}


def _describe(
    path: Path, meta: dict, files: tuple[Path, ...], size: int, weights: Counter[str], n_tensors: int
) -> Gguf:
    architecture = _text(meta, "general.architecture")
    if not architecture:
        raise KvsplitError(f"{path} does not name its architecture (general.architecture): convert the model again.")
    own = {key[len(architecture) + 1 :]: meta[key] for key in meta if key.startswith(architecture + ".")}

    def number(key: str, default: int = 0) -> int:
        return _int(path, own, key, default)

    n_layer = number("block_count") - number("nextn_predict_layers")
    if not 0 <= n_layer <= MAX_LAYERS:
        raise _damaged(path, f"it claims {n_layer} layers")

    def each_layer(key: str, default: list[int]) -> list[int]:
        return _per_layer(path, own, key, n_layer, default)

    heads = each_layer("attention.head_count", [0] * n_layer)
    kv_heads = each_layer("attention.head_count_kv", heads)
    dim = number("embedding_length") // heads[0] if heads and heads[0] else 0
    dim_k, dim_v = number("attention.key_length", dim), number("attention.value_length", dim)
    swa_k, swa_v = number("attention.key_length_swa", dim_k), number("attention.value_length_swa", dim_v)
    windowed = each_layer("attention.sliding_window_pattern", []) if (swa_k, swa_v) != (dim_k, dim_v) else [0] * n_layer
    mla = "attention.key_length_mla" in own
    unmodelled = next((words for key, words in UNMODELLED.items() if key in own), None)
    if not windowed and n_layer:
        unmodelled = "sliding-window layers of another head size, whose place the file does not state"
        windowed = [0] * n_layer

    recurrent_layers = each_layer("attention.recurrent_layers", [])
    interval = number("full_attention_interval")
    if not recurrent_layers and interval:
        recurrent_layers = [int((i + 1) % interval != 0) for i in range(n_layer)]
    # Mamba, gated delta nets and the like state sizes of their own; convolutions (LFM2) have no heads there.
    recurrent = any(key.startswith(("ssm.", "wkv.", "kda.")) for key in own) or any(recurrent_layers)
    if recurrent and not recurrent_layers and all(kv_heads) and architecture != "falcon-h1":  # has both everywhere
        unmodelled = "recurrent layers whose place the file does not state"
    # The last layers of some models (Gemma 3n, Gemma 4) read the cache of earlier ones.
    with_cache = n_layer - number("attention.shared_kv_layers")

    layers = tuple(
        Layer(
            0 if i >= with_cache or (recurrent_layers and recurrent_layers[i]) else kv_heads[i],
            swa_k if windowed[i] else dim_k,
            0 if mla else swa_v if windowed[i] else dim_v,
        )
        for i in range(n_layer)
    )
    loops = number("num_loops", 1)
    if loops * n_layer > MAX_LAYERS:
        raise _damaged(path, f"it claims {loops} rounds through {n_layer} layers")
    return Gguf(
        path=path,
        files=files,
        size=size,
        architecture=architecture,
        name=_text(meta, "general.name"),
        kind=_text(meta, "general.type") or "model",
        weights=weights.most_common(1)[0][0] if weights else None,
        n_tensors=n_tensors,
        n_embd=number("embedding_length"),
        n_head=max(heads, default=0),
        n_ctx_train=number("context_length"),
        layers=layers * loops,
        sliding_window=number("attention.sliding_window") or None,
        recurrent=recurrent or (n_layer > 0 and not any(heads)),
        mla=mla,
        causal=own.get("attention.causal", True) is not False,
        chat_template=_text(meta, "tokenizer.chat_template"),
        unmodelled=unmodelled,
    )


def _text(meta: dict, key: str) -> str | None:
    value = meta.get(key)
    return value if isinstance(value, str) else None


def _int(path: Path, meta: dict, key: str, default: int = 0) -> int:
    value = meta.get(key, default)
    if isinstance(value, list) and value:  # a number for each layer where one would do
        value = value[0]
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise _damaged(path, f"{key} is not a count")
    return int(value)


def _per_layer(path: Path, meta: dict, key: str, n_layer: int, default: list[int]) -> list[int]:
    """One number a layer, which the file may give once for all."""
    value = meta.get(key)
    if value is None:
        return default
    if not isinstance(value, list):
        return [_int(path, meta, key)] * n_layer
    if len(value) < n_layer:
        raise _damaged(path, f"{key} has {len(value)} entries for {n_layer} layers")
    return [_int(path, {key: each}, key) for each in value[:n_layer]]


# The file format.


@dataclass(frozen=True)
class _File:
    meta: dict[str, object]
    #: Bytes of weights in each ggml type.
    weights: dict[str, int]
    n_tensors: int
    size: int


def _read_file(path: Path) -> _File:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _Header(file)
            try:
                return _parse(path, header, size)
            except EOFError:
                if not size:
                    raise KvsplitError(f"{path} is empty: download it again.") from None
                raise KvsplitError(
                    f"{path} is cut short or damaged: its header does not end within its {size} bytes; download it again."
                ) from None
    except FileNotFoundError:
        raise KvsplitError(f"{path} does not exist: check the path, or fetch it with `llm kvsplit download`.") from None
    except OSError as error:
        raise KvsplitError(f"{path} cannot be read ({error.strerror or error}): give the path of a GGUF file.") from error


def _parse(path: Path, header: "_Header", size: int) -> _File:
    magic = header.take(min(size, len(MAGIC)) or 1)
    if magic != MAGIC:
        raise KvsplitError(f"{path} is not a GGUF file (it begins with {magic!r}): convert it with llama.cpp first.")
    version = header.number("I")
    if version & 0xFFFF == 0:
        raise KvsplitError(f"{path} has the byte order of another machine: convert it with gguf-convert-endian first.")
    if version not in (2, 3):
        raise KvsplitError(f"{path} is GGUF version {version}, but versions 2 and 3 can be read: convert it again.")
    n_tensors, n_values = header.number("Q"), header.number("Q")
    if max(n_tensors, n_values) > MAX_ENTRIES:
        raise _damaged(path, f"it claims {n_tensors} tensors and {n_values} values")

    meta: dict[str, object] = {}
    for _ in range(n_values):
        key = header.string()
        meta[key] = _value(path, header, key)

    infos = []
    for _ in range(n_tensors):
        name = header.string()
        dims = header.number("I")
        if dims > 4:
            raise _damaged(path, f"tensor {name[:64]} has {dims} dimensions")
        shape = [header.number("Q") for _ in range(dims)]
        infos.append((name, shape, header.number("I"), header.number("Q")))

    alignment = _int(path, meta, "general.alignment", 32)
    if alignment == 0 or alignment & (alignment - 1):
        raise _damaged(path, f"its alignment is {alignment}")
    start = -(-header.tell() // alignment) * alignment
    weights: Counter[str] = Counter()
    end = start if infos else 0
    for name, shape, type_id, offset in infos:
        # A type newer than this table counts as nothing: llama.cpp will say if it cannot read it.
        type_name, block, block_bytes = TENSOR_TYPES.get(type_id, (f"type {type_id}", 1, 0))
        values = 1
        for extent in shape:
            values *= extent
        if values >= 1 << 63 or offset >= 1 << 63 or (shape and shape[0] % block):
            raise _damaged(path, f"tensor {name[:64]} has an impossible size")
        weights[type_name] += values // block * block_bytes
        end = max(end, start + offset + values // block * block_bytes)
    if end > size:
        raise KvsplitError(f"{path} is cut short: {end - size} of its {end} bytes are missing; download it again.")
    return _File(meta, weights, len(infos), size)


def _value(path: Path, header: "_Header", key: str) -> object:
    """The next value; None for an array too long to be about the model's shape."""
    kind = header.number("I")
    if kind == STRING:
        return header.string()
    if kind in SCALARS:
        return header.number(SCALARS[kind])
    if kind != ARRAY:
        raise _damaged(path, f"{key[:64]} has the unknown type {kind}")

    kind, length = header.number("I"), header.number("Q")
    if length > MAX_ARRAY or (kind != STRING and kind not in SCALARS):
        raise _damaged(path, f"{key[:64]} is an array of {length} values of type {kind}")
    if kind == STRING:
        header.skip_strings(length)
        return None
    layout = struct.Struct(f"<{length}{SCALARS[kind]}")
    if length > MAX_KEPT_ARRAY:
        header.skip(layout.size)
        return None
    return list(layout.unpack(header.take(layout.size)))


def _damaged(path: Path, what: str) -> KvsplitError:
    return KvsplitError(f"{path} is damaged or not what llama.cpp writes ({what}): download or convert it again.")


class _Header:
    """Walks a header front to back with a small buffer; EOFError where the file ends first.

    Not mmap: a file cut short by somebody else meanwhile would kill the process with SIGBUS.
    """

    CHUNK = 1 << 20
    LENGTH = struct.Struct("<Q")

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = min(os.fstat(file.fileno()).st_size, MAX_HEADER)
        self.buffer = b""
        self.at = 0

    def tell(self) -> int:
        return self.file.tell() - len(self.buffer) + self.at

    def _ensure(self, n: int) -> None:
        """Have the next ``n`` bytes in the buffer."""
        if self.at + n > len(self.buffer):
            if self.tell() + n > self.size:
                raise EOFError
            self.file.seek(self.tell())
            self.buffer, self.at = self.file.read(max(n, self.CHUNK)), 0
            if len(self.buffer) < n:
                raise EOFError

    def take(self, n: int) -> bytes:
        self._ensure(n)
        self.at += n
        return self.buffer[self.at - n : self.at]

    def skip(self, n: int) -> None:
        if self.tell() + n > self.size:
            raise EOFError
        self.at += n
        if self.at > len(self.buffer):
            self.file.seek(self.tell())
            self.buffer, self.at = b"", 0

    def number(self, fmt: str):
        return struct.unpack("<" + fmt, self.take(struct.calcsize(fmt)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        """Step over ``count`` strings: hundreds of thousands in a vocabulary, so the loop is a bare one."""
        unpack = self.LENGTH.unpack_from
        while count:
            self._ensure(8)
            buffer, at = self.buffer, self.at
            last = len(buffer) - 8
            while count and at <= last:
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            self.skip(at - self.at)
