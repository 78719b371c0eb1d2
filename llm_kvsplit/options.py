"""What a person can say with ``-o``, and what lies under it.

Every default is None: with any ``-o``, llm lets a class default that is not None override what the person stored
with ``llm models options set``. A model's registered defaults come next, then llama.cpp's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llm
from pydantic import Field, PrivateAttr

from . import endpoints
from .errors import KvsplitError
from .kvtypes import BITS, TYPES, Cache, CachePair, CacheType, LayerMap, from_bits, named

if TYPE_CHECKING:
    from .registry import Entry

#: A model without a chat template was not taught to end.
COMPLETION_TOKENS = 256

_BITS = ", ".join(map(str, BITS))
_NEEDING_BUILD = " and ".join(str(bits) for bits, cache in BITS.items() if cache.feature) + " need a build"


class Options(llm.Model.Options):
    kv_key_bits: int | None = Field(
        default=None,
        description=f"Bits a value of the keys takes in the KV cache: {_BITS} (default 16; {_NEEDING_BUILD})",
    )
    kv_value_bits: int | None = Field(
        default=None,
        description=f"Bits a value of the values takes in the KV cache: {_BITS} (default 16; {_NEEDING_BUILD})",
    )
    kv_key_type: str | None = Field(
        default=None, description=f"A type by its name in place of kv_key_bits: {', '.join(t.name for t in TYPES)}"
    )
    kv_value_type: str | None = Field(default=None, description="A type by its name in place of kv_value_bits")
    kv_layers: str | None = Field(
        default=None,
        description="Bits or types by layer, such as 0-3:8/8,4-29:8/4: keys/values; other layers take the options above",
    )
    n_ctx: int | None = Field(
        default=None, description="Tokens of context to allocate (default: as many as are needed, growing)"
    )
    max_tokens: int | None = Field(
        default=None,
        description=f"Most tokens to answer with (default: no limit; {COMPLETION_TOKENS} without a chat template)",
    )
    temperature: float | None = Field(
        default=None, description="Randomness; 0 always takes the likeliest (default 0.8)"
    )
    top_k: int | None = Field(
        default=None, description="Choose among this many of the likeliest; 0 for all (default 40)"
    )
    top_p: float | None = Field(default=None, description="Choose among the likeliest of this total (default 0.95)")
    min_p: float | None = Field(
        default=None, description="Leave out what is less likely than this share of the likeliest (default 0.05)"
    )
    repeat_penalty: float | None = Field(default=None, description="Penalty for repeated tokens; 1 is none (default 1)")
    presence_penalty: float | None = Field(default=None, description="Penalty for tokens already used (default 0)")
    frequency_penalty: float | None = Field(
        default=None, description="Penalty for tokens by how often they were used (default 0)"
    )
    seed: int | None = Field(default=None, description="Seed, for the same answer again (default: random)")
    stop: str | list[str] | None = Field(default=None, description="Text to stop at; it is not shown")
    regex: str | None = Field(default=None, description="Regular expression that the answer has to follow")
    grammar: str | None = Field(default=None, description="File with a Lark grammar that the answer has to follow")
    thinking: bool | None = Field(
        default=None,
        description="Turn reasoning on or off, where the chat template has a switch (default: the model's)",
    )
    generic_tools: bool | None = Field(
        default=None,
        description="Describe tools in the system prompt and hold calls to their schemas, for a model that was not "
        "trained for tools (default false)",
    )
    raw_prompt: bool | None = Field(
        default=None,
        description="Read control tokens in questions, files and results as the model's own (default false: as text)",
    )
    kv_sessions: bool | None = Field(
        default=None, description="Keep the KV state on disk for the next question (default: whenever llm logs)"
    )
    n_gpu_layers: int | None = Field(default=None, description="Layers on the GPU; -1 for all (default -1)")
    rpc: str | None = Field(
        default=None,
        description="Machines that hold layers and their cache: host:port, after commas, of each 'llm kvsplit rpc-server'",
    )
    n_threads: int | None = Field(default=None, description="CPU threads (default: one a core)")
    flash_attn: bool | None = Field(
        default=None, description="Flash attention; quantized values need it (default: where it works)"
    )
    verbose: bool | None = Field(default=None, description="Show llama.cpp's own log on stderr (default false)")
    _schema: Any = PrivateAttr(default=None)

    def schema_of(self, prompt: Any) -> Any:
        """The schema of a turn's answer. llm leaves it out of the turns after a tool's result, and gives them the same
        options (ChainResponse in llm/models.py)."""
        if prompt.schema is None and prompt.tool_results:
            return self._schema
        self._schema = prompt.schema
        return prompt.schema


@dataclass(frozen=True)
class Settings:
    """What one answer is computed with: options over registered defaults, checked."""

    cache: Cache
    #: Tokens of context; None for as many as are needed.
    n_ctx: int | None
    #: -1 for all of them, unless servers have no room for all.
    n_gpu_layers: int
    #: Other machines, as "host:port".
    servers: tuple[str, ...] = ()


#: Smallest and largest sensible value of each number.
_RANGES: dict[str, tuple[float, float]] = {
    "n_ctx": (1, 2**31 - 1),
    "max_tokens": (1, 2**31 - 1),
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "seed": (0, 2**32 - 2),
    "n_gpu_layers": (-1, 2**31 - 1),
    "n_threads": (1, 512),
}


def effective_settings(options: Options, entry: Entry) -> Settings:
    """Options over the model's registered defaults. Raises KvsplitError with the option and what it may be."""
    for name, (low, high) in _RANGES.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise KvsplitError(f"{name} must be from {low} to {high}, not {value}.")
    cache = _cache(options, entry)
    if options.flash_attn is False and cache.quantized_values:
        raise KvsplitError(
            f"A {cache} cache needs flash attention: leave out -o flash_attn false, or keep values in 16 bits."
        )
    servers = rpc_servers(entry.rpc if options.rpc is None else options.rpc)
    n_gpu_layers = _first(options.n_gpu_layers, entry.n_gpu_layers, default=-1)
    if servers and n_gpu_layers == 0:
        raise KvsplitError("n_gpu_layers 0 keeps all layers on this machine: leave it out, or leave out rpc.")
    n_ctx = entry.n_ctx if options.n_ctx is None else options.n_ctx
    return Settings(cache=cache, n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, servers=servers)


def rpc_servers(text: str | None) -> tuple[str, ...]:
    """The servers that a person named; none for "none". Raises KvsplitError."""
    if text is None or text == "none":
        return ()
    try:
        return endpoints.parse(text)
    except ValueError as error:
        raise KvsplitError(
            f"rpc {text!r} names no servers: {error}; write host:port of each, after commas, or none."
        ) from None


def _cache(options: Options, entry: Entry) -> Cache:
    """A layer map goes before bits that are said in the same place; what -o says goes before what is registered."""
    key, value = _side(options, "kv_key"), _side(options, "kv_value")
    pair = CachePair(
        key or _from_bits("kv_key_bits", _first(entry.kv_key_bits, default=16)),
        value or _from_bits("kv_value_bits", _first(entry.kv_value_bits, default=16)),
    )
    if options.kv_layers is not None:
        return layer_map(options.kv_layers, pair)
    if key is None and value is None:
        return registered_map(entry) or pair
    return pair


def _side(options: Options, side: str) -> CacheType | None:
    """The type that -o says for one side, by bits or by name."""
    bits, name = getattr(options, f"{side}_bits"), getattr(options, f"{side}_type")
    if bits is not None and name is not None:
        raise KvsplitError(f"{side}_bits {bits} and {side}_type {name} both say what one side is: leave one out.")
    if bits is not None:
        return _from_bits(f"{side}_bits", bits)
    try:
        return None if name is None else named(name)
    except ValueError as error:
        raise KvsplitError(f"{side}_type {error}.") from None


def _from_bits(option: str, bits: int) -> CacheType:
    if bits not in BITS:
        raise KvsplitError(f"{option} must be one of {_BITS}, not {bits}.")
    return from_bits(bits)


def registered_map(entry: Entry) -> LayerMap | None:
    """The layer map that a model is registered with, if any. Raises KvsplitError for a registry that was edited wrongly."""
    if entry.kv_layers is None:
        return None
    return layer_map(entry.kv_layers, CachePair.from_bits(entry.kv_key_bits or 16, entry.kv_value_bits or 16))


def layer_map(text: str, rest: CachePair) -> LayerMap:
    """The map that a person wrote; ``rest`` is for layers that it does not name. Raises KvsplitError."""
    try:
        return LayerMap.parse(text, rest)
    except ValueError as error:
        raise KvsplitError(f"kv_layers {text!r} is no layer map: {error}.") from None


def _first(*values: int | None, default: int) -> int:
    return next((value for value in values if value is not None), default)


def stop_texts(stop: str | list[str] | None) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) else stop or []
    return tuple(text for text in texts if text)


def table() -> str:
    """The options as the README's Markdown table."""
    rows = ["| Option | What it does |", "| --- | --- |"]
    rows += [f"| `{name}` | {field.description} |" for name, field in Options.model_fields.items()]
    return "\n".join(rows)
