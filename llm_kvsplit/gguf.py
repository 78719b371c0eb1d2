"""What a GGUF file says about its model, from the header alone."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .errors import KvsplitError
from .gguf_format import FILE_TYPE_GUESSED, FILE_TYPES, count, damaged, read_file
from .kvtypes import F16, Cache

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
    #: What the file says that it was quantized to, such as Q4_K_M: a mix of ggml types. None if it does not say.
    file_type: str | None
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
    #: False for models that embed text rather than write it, if the file says so.
    causal: bool
    #: How the vectors of its tokens become one (llama.h: enum llama_pooling_type); None if the file does not say.
    pooling: int | None
    chat_template: str | None
    #: It caches more than keys and values of every layer and token, which ``layers`` does not tell.
    other_cache: bool
    #: The kind of its vocabulary, such as gpt2; "" if it does not say, None without a vocabulary.
    tokenizer: str | None

    @property
    def weights_text(self) -> str:
        """The file type, and what most bytes are where its name does not tell: "Q4_K_M, most bytes Q8_0"."""
        if self.weights is None:
            return "none"
        if self.file_type is None:
            return self.weights
        if self.file_type == self.weights or self.file_type.startswith(f"{self.weights}_"):
            return self.file_type
        return f"{self.file_type}, most bytes {self.weights}"

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


#: Architectures that llama.cpp loads and that do not continue a text, though their header does not say so. Sources:
#: llama_model_has_encoder in llama-model.cpp, llm_arch_is_diffusion in llama-arch.cpp, causal_attn in models/*.cpp.
_NO_CONTINUATION = {
    "t5": "an encoder-decoder model, which this plugin cannot run",
    "t5encoder": "an encoder, which writes no text",
    "eagle3": "a draft for another model",
    "dflash": "a draft for another model",
    "dream": "a diffusion model, which does not write from left to right",
    "llada": "a diffusion model, which does not write from left to right",
    "llada-moe": "a diffusion model, which does not write from left to right",
    "rnd1": "a diffusion model, which does not write from left to right",
    "gemma-embedding": "a model that embeds text and does not write any",
}


#: Keys of such models: a sparse-attention indexer's keys, compressed caches, a cache for each round through the layers.
#: Source: load_arch_hparams in models/*.cpp.
_OTHER_CACHES = ("attention.indexer.head_count", "attention.compress_ratios", "hrm.layers_per_stack")


def other_kind(model: Gguf) -> str | None:
    """What the file holds when it is no language model that continues a text, as words after "is"; None if it is one."""
    if model.kind == "mmproj" or model.architecture == "clip":
        return "the projector for a model's images"
    if model.kind != "model":
        return f"a file of type {model.kind}"
    if not model.n_tensors:
        return "a header without a model" if model.tokenizer is None else "a vocabulary without a model"
    if not model.layers:
        return f"not a language model that llama.cpp knows (architecture {model.architecture})"
    if what := _NO_CONTINUATION.get(model.architecture):
        return f"{what} (architecture {model.architecture})"
    if not model.causal:
        return "a model that embeds text and does not write any"
    if model.tokenizer in ("no_vocab", "none"):
        return f"a model without a vocabulary (tokenizer.ggml.model is {model.tokenizer})"
    return None


#: enum llama_pooling_type in llama.h: one that scores a pair of texts.
_RANK = 4


def embeds(model: Gguf) -> bool:
    """Whether it was trained to give a vector for a text: an encoder, or one whose file says how to pool."""
    return model.kind == "model" and bool(model.layers) and (not model.causal or bool(model.pooling))


def no_embeddings(model: Gguf) -> str | None:
    """Why it cannot give vectors of texts, as words after "is"; None if it can."""
    if model.pooling == _RANK:
        return "a reranker, which scores pairs of texts and has no vectors: give an embedding model"
    if not embeds(model):
        return f"{other_kind(model) or 'a model that writes text'}: give an embedding model"
    if model.tokenizer in (None, "no_vocab", "none"):
        return "a model without a vocabulary: give the whole model"
    return None


def refusal(model: Gguf, cache: Cache) -> str | None:
    """Why llama.cpp cannot run this model with such a cache, as the end of a sentence; None if it can.

    Source: llama_init_from_model in llama-context.cpp.
    """
    if what := other_kind(model):
        return f"is {what}: give a language model's own GGUF file instead of {model.path}"
    try:
        pairs = cache.pairs(model.n_layer)
    except ValueError as error:
        return f"cannot use the layer map {cache}: {error}"
    if model.mla and any(pair.mixed for pair in pairs):
        return "uses multi-head latent attention, where keys and values must have the same bits"
    keys = {(layer.head_dim_k, pair.k) for layer, pair in zip(model.layers, pairs)}
    values = {(layer.head_dim_v, pair.v) for layer, pair in zip(model.layers, pairs)}
    for side, kinds in (("key", keys), ("value", values)):
        for dim, cache_type in sorted(kinds, key=lambda kind: (kind[0], kind[1].bits)):
            if dim % cache_type.block:
                return (
                    f"has {side} heads of {dim} values, which blocks of {cache_type.block} ({cache_type.name}) "
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

    return _described(path, meta, files=tuple(files), size=size, weights=weights, n_tensors=n_tensors)


# What the keys mean. Sources: llama_model_base::load_hparams and create_memory in llama-model.cpp,
# load_arch_hparams in models/*.cpp.


@dataclass(frozen=True)
class _Keys:
    """What stands under the architecture's own keys, named without it: "block_count" of llama.block_count."""

    path: Path
    values: dict[str, object]

    def number(self, key: str, default: int = 0) -> int:
        return count(self.path, self.values, key, default)

    def per_layer(self, key: str, n_layer: int, default: list[int]) -> list[int]:
        """One number a layer, which the file may give once for all."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, list):
            return [self.number(key)] * n_layer
        if len(value) < n_layer:
            raise damaged(self.path, f"{key} has {len(value)} entries for {n_layer} layers")
        return [count(self.path, {key: each}, key) for each in value[:n_layer]]


def _described(
    path: Path, meta: dict[str, object], files: tuple[Path, ...], size: int, weights: Counter[str], n_tensors: int
) -> Gguf:
    architecture = _label(meta, "general.architecture")
    if not architecture:
        raise KvsplitError(f"{path} does not name its architecture (general.architecture): convert the model again.")
    own = {key[len(architecture) + 1 :]: meta[key] for key in meta if key.startswith(architecture + ".")}
    keys = _Keys(path, own)
    n_layer = keys.number("block_count") - keys.number("nextn_predict_layers")
    loops = keys.number("num_loops", 1)
    if not 0 <= n_layer <= MAX_LAYERS:
        raise damaged(path, f"it claims {n_layer} layers")
    if loops * n_layer > MAX_LAYERS:
        raise damaged(path, f"it claims {loops} rounds through {n_layer} layers")
    heads = keys.per_layer("attention.head_count", n_layer, [0] * n_layer)
    recurrent_layers = _recurrent_layers(keys, n_layer)
    return Gguf(
        path=path,
        files=files,
        size=size,
        architecture=architecture,
        name=_label(meta, "general.name"),
        kind=_label(meta, "general.type") or "model",
        file_type=_file_type(path, meta),
        weights=weights.most_common(1)[0][0] if weights else None,
        n_tensors=n_tensors,
        n_embd=keys.number("embedding_length"),
        n_head=max(heads, default=0),
        n_ctx_train=keys.number("context_length"),
        layers=_layers(keys, heads, recurrent_layers) * loops,
        sliding_window=keys.number("attention.sliding_window") or None,
        # Mamba, gated delta nets and the like state sizes of their own. Convolutions (LFM2) have no heads there.
        recurrent=any(key.startswith(("ssm.", "wkv.", "kda.")) for key in own)
        or any(recurrent_layers)
        or (n_layer > 0 and not any(heads)),
        mla=_is_mla(keys),
        causal=own.get("attention.causal", True) is not False,
        pooling=keys.number("pooling_type") if "pooling_type" in own else None,
        chat_template=_text(meta, "tokenizer.chat_template"),
        other_cache=any(key in own for key in _OTHER_CACHES),
        tokenizer=_label(meta, "tokenizer.ggml.model") or ("" if "tokenizer.ggml.tokens" in meta else None),
    )


def _is_mla(keys: _Keys) -> bool:
    return "attention.key_length_mla" in keys.values


def _recurrent_layers(keys: _Keys, n_layer: int) -> list[int]:
    """1 for each layer with a state instead of a cache, else 0."""
    layers = keys.per_layer("attention.recurrent_layers", n_layer, [])
    interval = keys.number("full_attention_interval")
    if layers or not interval:
        return layers or [0] * n_layer
    return [int((i + 1) % interval != 0) for i in range(n_layer)]


def _layers(keys: _Keys, heads: list[int], recurrent_layers: list[int]) -> tuple[Layer, ...]:
    n_layer = len(heads)
    kv_heads = keys.per_layer("attention.head_count_kv", n_layer, heads)
    dim = keys.number("embedding_length") // heads[0] if heads and heads[0] else 0
    dim_k, dim_v = keys.number("attention.key_length", dim), keys.number("attention.value_length", dim)
    swa_k, swa_v = keys.number("attention.key_length_swa", dim_k), keys.number("attention.value_length_swa", dim_v)
    windowed = [0] * n_layer
    if (swa_k, swa_v) != (dim_k, dim_v) and isinstance(keys.values.get("attention.sliding_window_pattern"), list):
        windowed = keys.per_layer("attention.sliding_window_pattern", n_layer, windowed)
    # The last layers of some models (Gemma 3n, Gemma 4) read the cache of earlier ones.
    n_cached = n_layer - keys.number("attention.shared_kv_layers")
    mla = _is_mla(keys)
    return tuple(
        Layer(
            0 if i >= n_cached or recurrent_layers[i] else kv_heads[i],
            swa_k if windowed[i] else dim_k,
            0 if mla else swa_v if windowed[i] else dim_v,
        )
        for i in range(n_layer)
    )


def _file_type(path: Path, meta: dict[str, object]) -> str | None:
    if "general.file_type" not in meta:
        return None
    number = count(path, meta, "general.file_type")
    guessed, number = number & FILE_TYPE_GUESSED, number & ~FILE_TYPE_GUESSED
    name = FILE_TYPES.get(number, f"file type {number} (of no known name)")
    return f"{name} (guessed)" if guessed else name


def _text(meta: dict[str, object], key: str) -> str | None:
    value = meta.get(key)
    return value if isinstance(value, str) else None


def _label(meta: dict[str, object], key: str) -> str | None:
    """A text that is shown: without what could steer a terminal."""
    text = _text(meta, key)
    return text and "".join(each if each.isprintable() else " " for each in text[:200])
