"""Whether a model fits the memory, from its header alone: quick enough for hundreds of them.

``llm kvsplit fit`` asks llama.cpp instead, which knows the buffers and the GPU, but must be loaded or even built first.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import gguf
from ..kvtypes import CachePair

#: Bytes set aside for llama.cpp's buffers and the process. Most of them are the logits of a batch: 512 tokens take
#: 501 MiB with the 256,000 words of a Gemma (``fit.footprint`` of such a model), and the process takes about 100 MiB.
RESERVED = 768 << 20

#: What is tried in turn; latent attention, for one, wants both sides alike.
_PAIRS = tuple(CachePair.from_bits(*bits) for bits in ((8, 4), (8, 8), (16, 16)))

#: llama.cpp allocates the cache in steps of so many tokens; with fewer than two of them there is nothing to do.
_STEP = 256


@dataclass(frozen=True)
class Estimate:
    """How much of a model's context fits."""

    #: None where the header does not tell the cache's size: the weights fit, and ``llm kvsplit fit`` knows the rest.
    n_ctx: int | None
    #: Whether that is all that it was trained for.
    whole: bool
    pair: CachePair

    def __str__(self) -> str:
        pair = "" if self.pair == _PAIRS[0] else f" ({self.pair})"
        if self.n_ctx is None:
            return "weights fit"
        if self.n_ctx == 0:
            return "too large"
        return f"fits{pair}" if self.whole else f"fits with {self.n_ctx} tokens{pair}"


def estimate(model: gguf.Gguf, memory: int) -> Estimate:
    """How much context of ``model`` fits into ``memory`` bytes with a K8V4 cache, or the nearest that it can have."""
    pair = next((each for each in _PAIRS if not gguf.refusal(model, each)), _PAIRS[-1])
    left = memory - model.size - RESERVED
    if left < 0:
        return Estimate(0, False, pair)
    per_token = _bytes_per_token(model, pair)
    if model.other_cache or not model.n_ctx_train:
        return Estimate(None, False, pair)
    if per_token * model.n_ctx_train <= left:
        return Estimate(model.n_ctx_train, True, pair)
    n_ctx = int(left / per_token) // _STEP * _STEP
    return Estimate(n_ctx if n_ctx >= 2 * _STEP else 0, False, pair)


def _bytes_per_token(model: gguf.Gguf, pair: CachePair) -> float:
    """Bytes of keys and values in all layers, at most: layers with a sliding window count in full."""
    k, v = (cache.bits_per_value / 8 for cache in (pair.k, pair.v))
    return sum(layer.n_head_kv * (layer.head_dim_k * k + layer.head_dim_v * v) for layer in model.layers)
