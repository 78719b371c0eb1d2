"""Bits <-> ggml cache types, and the bytes they take: the one place that knows them."""

from dataclasses import dataclass

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

    @property
    def bits_per_value(self) -> float:
        return 8 * self.bytes_per_block / self.block


F16 = CacheType("f16", 1, 16, 2, block=1)
Q8_0 = CacheType("q8_0", 8, 8, 34)
Q5_1 = CacheType("q5_1", 7, 5, 24)
Q4_0 = CacheType("q4_0", 2, 4, 18)

BITS: dict[int, CacheType] = {t.bits: t for t in (F16, Q8_0, Q5_1, Q4_0)}


@dataclass(frozen=True)
class CachePair:
    """The types of both sides of a cache. ``str()`` gives the field's short name, such as K8V4."""

    k: CacheType
    v: CacheType

    @classmethod
    def from_bits(cls, key_bits: int, value_bits: int) -> "CachePair":
        return cls(from_bits(key_bits), from_bits(value_bits))

    @property
    def mixed(self) -> bool:
        return self.k is not self.v

    @property
    def quantized(self) -> bool:
        return self.k is not F16 or self.v is not F16

    def __str__(self) -> str:
        return f"K{self.k.bits}V{self.v.bits}" if self.quantized else "f16"


def from_bits(bits: int) -> CacheType:
    """The cache type for a number of bits.

    Raises ValueError with the numbers that are allowed.
    """
    try:
        return BITS[bits]
    except KeyError:
        raise ValueError(f"cache bits must be one of {', '.join(map(str, BITS))}, not {bits}") from None


#: From most to least precise; what is tried, in this order, when something must be given up.
LADDER = tuple(CachePair.from_bits(*bits) for bits in ((16, 16), (8, 8), (8, 5), (8, 4), (5, 5), (4, 8), (4, 4)))
#: The pairs of the ladder that everything is measured with unless others are named: f16, K8V8, K8V4, K4V8, K4V4.
USUAL = tuple(pair for pair in LADDER if 5 not in (pair.k.bits, pair.v.bits))
