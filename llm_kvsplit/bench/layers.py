"""What quantizing one layer's keys or values alone does.

A library without layer maps gives all layers one type. So the cache is f16, and while a window is evaluated the rows of one side of one
layer are rounded on their way into it, by ggml's own quantizer, turned by the Hadamard matrix that llama.cpp turns
quantized rows with. Rounding all layers so gives what a quantized cache gives (the tests compare them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import rows
from ..engine.context import Context, ContextOptions
from ..engine.tap import Tap
from ..errors import KvsplitError
from ..kvtypes import F16 as F16_TYPE
from ..kvtypes import Q4_0, CacheType
from .quality import F16, divergences, log_softmax, windows

if TYPE_CHECKING:
    from ..engine.weights import Weights

#: llama.cpp's names of what goes into the cache (cb() in its models).
_NAMES = {"k": "Kcur", "v": "Vcur"}


class Rounding:
    """An f16 context in which chosen layers' keys or values can be rounded."""

    def __init__(self, weights: Weights, n_ctx: int, n_threads: int | None) -> None:
        self.weights = weights
        self.layers = range(weights.header.n_layer)
        names = {f"{name}-{layer}" for name in (*_NAMES.values(), "kqv_out") for layer in self.layers}
        self.tap = Tap(names)
        self.context = Context(weights, ContextOptions(F16, n_ctx, n_threads, flash_attn=True), self.tap)
        self.context.evaluate([0])
        self.context.synchronize()
        self.tap.steps = dict(self.tap.computed)
        if weights.header.mla or names != self.tap.steps.keys():
            self.context.close()
            raise KvsplitError(
                "This model has layers without keys and values of their own (latent attention, recurrent layers), so they "
                "cannot be measured one by one: leave out --layers."
            )

    def run(
        self, window: list[int], chosen: Iterable[tuple[int, str]], cache_type: CacheType
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Evaluate with the ``chosen`` (layer, "k" or "v") rounded.

        Returns the second half's log-probabilities, shape (tokens, n_vocab), and the attention outputs of its last
        batch by llama.cpp's name.
        """
        self.tap.computed.clear()
        self.tap.changes = {
            f"{_NAMES[side]}-{layer}": partial(_rounded, self.weights, layer, side, cache_type)
            for layer, side in chosen
        }
        half = len(window) // 2
        self.context.clear()
        self.context.evaluate(window[:half])
        parts = [self.context.logits(window[start : start + 256]) for start in range(half, len(window), 256)]
        if self.tap.error:
            raise self.tap.error
        outputs = {name: values for name, values in self.tap.values.items() if name.startswith("kqv_out")}
        return log_softmax(np.concatenate(parts)), outputs


def _rounded(weights: Weights, layer: int, side: str, cache_type: CacheType, values: np.ndarray) -> np.ndarray:
    shape = weights.header.layers[layer]
    dim = shape.head_dim_k if side == "k" else shape.head_dim_v
    width = 0 if cache_type is F16_TYPE else rows.rotation(dim, keys=side == "k")
    turned = rows.rotated(values.reshape(-1, shape.n_head_kv * dim), width)
    return rows.rotated(rows.rounded(turned, cache_type), width)


def measure(
    weights: Weights,
    tokens: list[int],
    n_ctx: int,
    count: int,
    n_threads: int | None,
    done: Callable[[int], None] = lambda tokens: None,
    cache_type: CacheType = Q4_0,
) -> dict[str, Any]:
    """For each layer and side: mean KL divergence from f16 in nats, and the attention output's relative error."""
    rounding = Rounding(weights, n_ctx, n_threads)
    #: (layer, side) -> KL divergence and relative error of each window.
    measured: dict[tuple[int, str], list[tuple[float, float]]] = {}
    try:
        for window in windows(tokens, n_ctx, count):
            log_q, outputs = rounding.run(window, (), cache_type)
            done(len(window))
            for layer in rounding.layers:
                for side in _NAMES:
                    log_p, changed = rounding.run(window, [(layer, side)], cache_type)
                    done(len(window))
                    before, after = (each[f"kqv_out-{layer}"] for each in (outputs, changed))
                    error = np.linalg.norm(after - before) / np.linalg.norm(before)
                    measured.setdefault((layer, side), []).append(
                        (float(divergences(log_p, log_q).mean()), float(error))
                    )
    finally:
        rounding.context.close()

    def mean(layer: int, side: str) -> dict[str, float]:
        kl, error = np.mean(measured[layer, side], axis=0)
        return {"kl": float(kl), "error": float(error)}

    table = [{"layer": layer, "k": mean(layer, "k"), "v": mean(layer, "v")} for layer in rounding.layers]
    return {"cache_type": cache_type.name, "n_ctx": n_ctx, "windows": count, "rows": table}
