"""What a GGUF file says about its model, from the header alone."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .errors import KvsplitError
from .gguf_format import count, damaged, read_file
from .kvtypes import F16, CacheType, bytes_per_token

#: No honest model comes near it; it keeps a damaged file from costing memory.
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
    first = read_file(path)
    meta, files, weights, size = first.meta, [path], Counter(first.weights), first.size
    n_tensors = first.n_tensors

    n_parts = count(path, meta, "split.count")
    if n_parts > 1:
        names = part_names(path.name)
        if count(path, meta, "split.no"):
            raise KvsplitError(f"{path} is one part of a split model: give its first part, {names[0]}, instead.")
        if len(names) != n_parts or names[0] != path.name:
            raise KvsplitError(
                f"{path} is the first of {n_parts} parts: give the parts back the names they were published with, "
                f"ending in -00001-of-{n_parts:05}.gguf and so on, since llama.cpp finds them by name."
            )
        files = [path.with_name(name) for name in names]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise KvsplitError(f"{path} is split and {', '.join(missing)} is missing: put all parts into one folder.")
        for part in map(read_file, files[1:]):
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
    architecture = _label(meta, "general.architecture")
    if not architecture:
        raise KvsplitError(f"{path} does not name its architecture (general.architecture): convert the model again.")
    own = {key[len(architecture) + 1 :]: meta[key] for key in meta if key.startswith(architecture + ".")}

    def number(key: str, default: int = 0) -> int:
        return count(path, own, key, default)

    n_layer = number("block_count") - number("nextn_predict_layers")
    if not 0 <= n_layer <= MAX_LAYERS:
        raise damaged(path, f"it claims {n_layer} layers")

    def each_layer(key: str, default: list[int]) -> list[int]:
        return _per_layer(path, own, key, n_layer, default)

    heads = each_layer("attention.head_count", [0] * n_layer)
    kv_heads = each_layer("attention.head_count_kv", heads)
    dim = number("embedding_length") // heads[0] if heads and heads[0] else 0
    dim_k, dim_v = number("attention.key_length", dim), number("attention.value_length", dim)
    swa_k, swa_v = number("attention.key_length_swa", dim_k), number("attention.value_length_swa", dim_v)
    windowed = [0] * n_layer
    mla = "attention.key_length_mla" in own
    unmodelled = next((words for key, words in UNMODELLED.items() if key in own), None)
    if (swa_k, swa_v) != (dim_k, dim_v):
        if isinstance(own.get("attention.sliding_window_pattern"), list):
            windowed = each_layer("attention.sliding_window_pattern", windowed)
        else:
            unmodelled = "sliding-window layers of another head size, whose place the file does not state"

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
        raise damaged(path, f"it claims {loops} rounds through {n_layer} layers")
    return Gguf(
        path=path,
        files=files,
        size=size,
        architecture=architecture,
        name=_label(meta, "general.name"),
        kind=_label(meta, "general.type") or "model",
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


def _label(meta: dict, key: str) -> str | None:
    """A text that is shown: without what could steer a terminal."""
    text = _text(meta, key)
    return text and "".join(each if each.isprintable() else " " for each in text[:200])


def _per_layer(path: Path, meta: dict, key: str, n_layer: int, default: list[int]) -> list[int]:
    """One number a layer, which the file may give once for all."""
    value = meta.get(key)
    if value is None:
        return default
    if not isinstance(value, list):
        return [count(path, meta, key)] * n_layer
    if len(value) < n_layer:
        raise damaged(path, f"{key} has {len(value)} entries for {n_layer} layers")
    return [count(path, {key: each}, key) for each in value[:n_layer]]
