"""Bits <-> ggml cache types, and the bytes they take: the one place that knows them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

#: Values in one quantization block of every cache type below but f16 (ggml-common.h: QK8_0, QK5_1, …).
BLOCK = 32


@dataclass(frozen=True)
class CacheType:
    """A ggml type that one side (K or V) of the KV cache is stored in."""

    name: str
    ggml_id: int
    #: What a person writes: ``-o kv_key_bits 8``.
    bits: int
    #: Bytes of one block over the values in it: the scale is part of the price.
    bytes_per_block: int
    block: int = BLOCK
    #: The feature that a library must name to have it (``llama_kvsplit_info``); "" for what every llama.cpp has.
    feature: str = ""
    #: A number of bits was asked for, and no type by name. The library may then have a better one (``on_library``).
    by_bits: bool = False

    @property
    def bits_per_value(self) -> float:
        return 8 * self.bytes_per_block / self.block

    def __str__(self) -> str:
        """The bits, where they say which type it is; otherwise its name."""
        return str(self.bits) if self == BITS[self.bits] else self.name


F16 = CacheType("f16", 1, 16, 2, block=1)
Q8_0 = CacheType("q8_0", 8, 8, 34)
Q6_0 = CacheType("q6_0", 500, 6, 26, feature="kv-types")
Q5_1 = CacheType("q5_1", 7, 5, 24)
Q5_0 = CacheType("q5_0", 6, 5, 22)
IQ4_NL = CacheType("iq4_nl", 20, 4, 18)
Q4_0 = CacheType("q4_0", 2, 4, 18)
Q3_NL = CacheType("q3_nl", 501, 3, 13, feature="kv-types")

#: All types, from most to least precise.
TYPES = (F16, Q8_0, Q6_0, Q5_1, Q5_0, IQ4_NL, Q4_0, Q3_NL)
#: 4 bits without a name: IQ4_NL where the library says so, which has 0.8 of the error; Q4_0 elsewhere.
FOUR = replace(Q4_0, by_bits=True)
#: What a number of bits stands for.
BITS: dict[int, CacheType] = {t.bits: t for t in (F16, Q8_0, Q6_0, Q5_1, FOUR, Q3_NL)}


@dataclass(frozen=True)
class CachePair:
    """The types of both sides of a cache. ``str()`` gives the field's short name, such as K8V4 or K8Vq4_0."""

    k: CacheType
    v: CacheType

    @classmethod
    def from_bits(cls, key_bits: int, value_bits: int) -> "CachePair":
        return cls(from_bits(key_bits), from_bits(value_bits))

    @property
    def types(self) -> tuple[CacheType, ...]:
        return self.k, self.v

    @property
    def features(self) -> frozenset[str]:
        """What a library must name to have both types."""
        return _features(self.types)

    @property
    def mixed(self) -> bool:
        return self.k.ggml_id != self.v.ggml_id

    @property
    def quantized(self) -> bool:
        return self.k is not F16 or self.quantized_values

    @property
    def quantized_values(self) -> bool:
        return self.v is not F16

    @classmethod
    def parse(cls, text: str) -> "CachePair":
        """ "8/4", "K8V4", "q8_0/q4_0", "K8Vq4_0", and "f16" or "8" for both sides. Raises ValueError with what is allowed."""
        lettered = re.fullmatch(r"[Kk](\w+)[Vv](\w+)", text.strip())
        key, slash, value = ("/".join(lettered.groups()) if lettered else text.strip()).partition("/")
        return cls(_named(key), _named(value if slash else key))

    def pairs(self, n_layer: int) -> tuple["CachePair", ...]:
        """The pair of each layer: the same for all."""
        return (self,) * n_layer

    def __str__(self) -> str:
        return f"K{self.k}V{self.v}" if self.quantized else "f16"

    def options(self) -> dict[str, str]:
        """What a person gives with ``-o`` for it, by the option's name."""
        sides = {"kv_key": self.k, "kv_value": self.v}
        return {f"{name}_{'bits' if str(kind).isdecimal() else 'type'}": str(kind) for name, kind in sides.items()}


@dataclass(frozen=True)
class LayerRange:
    """The layers from ``first`` to ``last``, and their pair."""

    first: int
    last: int
    pair: CachePair

    def __str__(self) -> str:
        layers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{layers}:{self.pair}"


@dataclass(frozen=True)
class LayerMap:
    """A pair for each layer: ``ranges``, in order and apart from each other, name some; all others take ``rest``.

    ``str()`` gives a text such as "0-3:K8V8,4-29:K8V4" that ``parse`` takes, as llama.cpp's --kvq-layers does.
    """

    ranges: tuple[LayerRange, ...]
    rest: CachePair

    @classmethod
    def parse(cls, text: str, rest: CachePair | None = None) -> "LayerMap":
        """ "0-3:8/8,4-29:8/4": layers and the pair of each. ``rest:8/4`` among them is for the layers not named.

        ``rest`` is for those where the text does not say; f16 by default. Raises ValueError, in words after the name of
        what was read.
        """
        ranges: list[LayerRange] = []
        named_rest = None
        for part in text.split(",") if text.strip() else ():
            layers, colon, pair = (word.strip() for word in part.partition(":"))
            numbers = re.fullmatch(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?", layers)
            if not colon or not (numbers or layers == "rest"):
                raise ValueError(f"{part.strip()!r} is not layers:pair, such as 0-3:8/8")
            if numbers:
                ranges.append(LayerRange(int(numbers[1]), int(numbers[2] or numbers[1]), CachePair.parse(pair)))
                if ranges[-1].last < ranges[-1].first:
                    raise ValueError(f"{part.strip()!r} ends before it begins")
            elif named_rest:
                raise ValueError("the rest is named twice")
            else:
                named_rest = CachePair.parse(pair)
        if not ranges and not named_rest:
            raise ValueError("it is empty: write layers and their pairs, such as 0-3:8/8,4-29:8/4")
        ranges.sort(key=lambda each: each.first)
        for before, after in pairwise(ranges):
            if after.first <= before.last:
                raise ValueError(f"layer {after.first} is named twice")
        return cls(tuple(ranges), named_rest or rest or CachePair(F16, F16))

    @classmethod
    def of(cls, pairs: Sequence[CachePair]) -> "LayerMap":
        """The map with these pairs, the first of them layer 0's."""
        ranges, first = [], 0
        for pair, same in groupby(pairs):
            last = first + len(list(same)) - 1
            ranges.append(LayerRange(first, last, pair))
            first = last + 1
        return cls(tuple(ranges), CachePair(F16, F16))

    def pairs(self, n_layer: int) -> tuple[CachePair, ...]:
        """The pair of each layer. Raises ValueError for a map that names a layer which a model of so many lacks."""
        if self.ranges and self.ranges[-1].last >= n_layer:
            raise ValueError(f"it names layer {self.ranges[-1].last}, and the model has layers 0 to {n_layer - 1}")
        pairs = [self.rest] * n_layer
        for each in self.ranges:
            pairs[each.first : each.last + 1] = [each.pair] * (each.last + 1 - each.first)
        return tuple(pairs)

    def bytes(self, cells: int, values: tuple[Sequence[int], Sequence[int]]) -> int:
        """Bytes of a cache of ``cells`` tokens. ``values``: of one token, the number of keys and of values by layer."""
        layers = zip(self.pairs(len(values[0])), *values)
        return round(cells * sum(k * pair.k.bits_per_value + v * pair.v.bits_per_value for pair, k, v in layers) / 8)

    @property
    def types(self) -> tuple[CacheType, ...]:
        return tuple(kind for pair in (*(each.pair for each in self.ranges), self.rest) for kind in pair.types)

    @property
    def features(self) -> frozenset[str]:
        """What a library must name to have all types."""
        return _features(self.types)

    @property
    def quantized(self) -> bool:
        return any(pair.quantized for pair in (self.rest, *(each.pair for each in self.ranges)))

    @property
    def quantized_values(self) -> bool:
        return any(pair.quantized_values for pair in (self.rest, *(each.pair for each in self.ranges)))

    def __str__(self) -> str:
        parts = [str(each) for each in self.ranges]
        if self.rest.quantized or not parts:
            parts.append(f"rest:{self.rest}")
        return ",".join(parts)


#: What a cache stores its keys and values in: one pair for all layers, or a pair for each.
Cache = CachePair | LayerMap


def label(cache: Cache) -> str:
    """A word for it where a map would be too long."""
    return "map" if isinstance(cache, LayerMap) else str(cache)


def parse(text: str) -> Cache:
    """What ``str()`` of a pair or of a layer map gives, and all that either's ``parse`` takes. Raises ValueError."""
    return LayerMap.parse(text) if ":" in text else CachePair.parse(text)


def _features(types: Sequence[CacheType]) -> frozenset[str]:
    return frozenset(kind.feature for kind in types if kind.feature)


def on_library(cache: Cache, four: CacheType) -> Cache:
    """The cache with ``four`` wherever 4 bits were asked for by number."""

    def pair(asked: CachePair) -> CachePair:
        return CachePair(*(four if kind.by_bits else kind for kind in asked.types))

    if isinstance(cache, CachePair):
        return pair(cache)
    return LayerMap(tuple(replace(each, pair=pair(each.pair)) for each in cache.ranges), pair(cache.rest))


def named(text: str) -> CacheType:
    """The cache type of that name. Raises ValueError with the names that are allowed."""
    for cache_type in TYPES:
        if text.strip().lower() == cache_type.name:
            return cache_type
    names = ", ".join(cache_type.name for cache_type in TYPES)
    raise ValueError(f"must be one of {names}, not {text.strip() or 'nothing'}")


def from_bits(bits: int) -> CacheType:
    """The cache type for a number of bits.

    Raises ValueError with the numbers that are allowed.
    """
    try:
        return BITS[bits]
    except KeyError:
        raise ValueError(f"cache bits must be one of {', '.join(map(str, BITS))}, not {bits}") from None


def _named(text: str) -> CacheType:
    """The cache type of that name or number of bits. Raises ValueError with what is allowed."""
    if text.strip() in map(str, BITS):
        return BITS[int(text)]
    with suppress(ValueError):
        return named(text)
    raise ValueError(f"cache bits must be one of {', '.join(map(str, BITS))}, not {text.strip() or 'nothing'}")


#: From most to least precise; what is tried, in this order, when something must be given up.
LADDER = tuple(
    CachePair.from_bits(*bits)
    for bits in ((16, 16), (8, 8), (8, 5), (6, 5), (8, 4), (6, 4), (5, 5), (5, 4), (6, 3), (4, 8), (4, 4))
)
#: The pairs of the ladder that everything is measured with unless others are named: f16, K8V8, K8V4, K4V8, K4V4.
USUAL = tuple(pair for pair in LADDER if {pair.k.bits, pair.v.bits} <= {16, 8, 4})
