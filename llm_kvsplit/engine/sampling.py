"""How the next token is chosen: llama.cpp's sampler chain."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..errors import KvsplitError
from . import library
from .weights import Weights


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
    #: GBNF that the answer has to follow.
    grammar: str | None = None


#: Tokens that the penalties look back on, as in llama.cpp's programs.
_PENALTY_WINDOW = 64


class Sampler:
    """A sampler chain. ``close()`` frees it."""

    def __init__(self, weights: Weights, sampling: Sampling) -> None:
        self.lib = lib = weights.lib
        self.pointer = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._links(weights, sampling):
            lib.llama_sampler_chain_add(self.pointer, link)

    def _links(self, weights: Weights, s: Sampling) -> list[Any]:
        lib, links = self.lib, []
        if s.grammar is not None:
            with library.log.capture() as lines:
                grammar = lib.llama_sampler_init_grammar(weights.vocab, s.grammar.encode(), b"root")
            if not grammar:
                cause = library.error_text(lines) or "no reason given"
                raise KvsplitError(f"llama.cpp does not accept the grammar made from the schema: {cause}.")
            links.append(grammar)
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

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_sampler_free(self.pointer)
            self.pointer = None


def json_grammar(schema: dict[str, Any]) -> str:
    """GBNF for the JSON documents that a JSON schema allows."""
    import json

    json_schema_to_gbnf = _llama_grammar().json_schema_to_gbnf
    try:
        # The bindings' converter lets strings hold bare control characters, which JSON does not allow.
        return json_schema_to_gbnf(json.dumps(schema)).replace(r'[^"\\]', r'[^"\\\x00-\x1F\x7F]')
    except Exception as ex:  # the converter raises whatever a malformed schema trips over
        raise KvsplitError(f"The schema cannot be turned into a grammar: {ex!r}. Simplify it.") from ex


@functools.cache
def _llama_grammar() -> Any:
    """llama-cpp-python's module of that name, read alone: its package would load a library."""
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

    package = find_spec("llama_cpp")
    place = next(iter(package.submodule_search_locations or ()), None) if package else None
    spec = spec_from_file_location("llm_kvsplit_llama_grammar", f"{place}/llama_grammar.py") if place else None
    if spec is None or spec.loader is None:
        raise KvsplitError("llama-cpp-python is not installed here: run 'pip install llama-cpp-python'.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
