"""How the next token is chosen: llama.cpp's sampler chain."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .weights import Weights

if TYPE_CHECKING:
    import numpy as np

#: llama.cpp's LLAMA_DEFAULT_SEED: draw a seed from the system.
_RANDOM_SEED = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampling:
    """The defaults are those of llama.cpp's own programs (common_params_sampling in common/common.h)."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


#: Tokens that the penalties look back on, as in llama.cpp's programs.
_PENALTY_WINDOW = 64


class Sampler:
    """A sampler chain. ``close()`` frees it."""

    def __init__(self, weights: Weights, sampling: Sampling) -> None:
        self.lib = lib = weights.lib
        self._all: np.ndarray | None = None
        self.pointer = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._links(weights, sampling):
            lib.llama_sampler_chain_add(self.pointer, link)

    def _links(self, weights: Weights, s: Sampling) -> list[Any]:
        lib, links = self.lib, []
        if s.repeat_penalty != 1 or s.presence_penalty or s.frequency_penalty:
            links.append(
                lib.llama_sampler_init_penalties(
                    weights.n_vocab, _PENALTY_WINDOW, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
                )
            )
        if s.temperature <= 0:
            return [*links, lib.llama_sampler_init_greedy()]
        return [
            *links,
            lib.llama_sampler_init_top_k(s.top_k),
            lib.llama_sampler_init_top_p(s.top_p, 1),
            lib.llama_sampler_init_min_p(s.min_p, 1),
            lib.llama_sampler_init_temp(s.temperature),
            lib.llama_sampler_init_dist(lib.LLAMA_DEFAULT_SEED if s.seed is None else s.seed),  # it draws one then,
        ]

    def sample(self, context: Any) -> int:
        """Choose from the logits of the last token evaluated, and take note of the choice."""
        return self.lib.llama_sampler_sample(self.pointer, context.pointer, -1)

    def choose(self, logits: np.ndarray, tokens: np.ndarray | None = None) -> int:
        """Choose from ``tokens``, or all, by their values in ``logits``, without taking note of the choice."""
        import numpy as np

        if tokens is None:
            tokens = self._all = np.arange(len(logits), dtype=np.int32) if self._all is None else self._all
        else:
            logits = logits[tokens]
        # llama_token_data in llama.h
        candidates = np.empty(len(tokens), np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")]))
        candidates["id"], candidates["logit"], candidates["p"] = tokens, logits, 0
        lib = self.lib
        array = lib.llama_token_data_array(
            ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data)), len(tokens), -1, False
        )
        lib.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return int(candidates["id"][array.selected])

    def accept(self, token: int) -> None:
        """Take note of a choice."""
        self.lib.llama_sampler_accept(self.pointer, token)

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_sampler_free(self.pointer)
            self.pointer = None
