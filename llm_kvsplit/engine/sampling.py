"""How the next token is chosen: llama.cpp's sampler chain."""

from __future__ import annotations

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
        #: Whether what it chose once weighs on what it chooses next.
        self.remembers = sampling.repeat_penalty != 1 or bool(sampling.presence_penalty or sampling.frequency_penalty)
        self.pointer = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._links(weights, sampling):
            lib.llama_sampler_chain_add(self.pointer, link)

    def _links(self, weights: Weights, s: Sampling) -> list[Any]:
        lib, links = self.lib, []
        if self.remembers:
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

    def sample_among(self, context: Any, tokens: np.ndarray) -> int:
        """The same, from ``tokens`` alone: the context's logits of all others become minus infinity."""
        import numpy as np

        n_vocab = context.weights.n_vocab
        logits = np.ctypeslib.as_array(self.lib.llama_get_logits(context.pointer), shape=(n_vocab,))
        kept = logits[tokens]
        logits[:] = -np.inf
        logits[tokens] = kept
        return self.sample(context)

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_sampler_free(self.pointer)
            self.pointer = None
