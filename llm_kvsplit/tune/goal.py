"""How small a map is to be, or how little damage it may do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .. import units
from ..errors import KvsplitError
from ..kvtypes import F16, Q4_0, Q8_0, CachePair, CacheType
from .sides import Side, bytes_of


@dataclass(frozen=True)
class Goal:
    """``budget`` in bytes, or ``limit`` in nats of damage; ``text`` is what a person reads."""

    text: str
    budget: int | None = None
    limit: float | None = None
    #: The pair whose bytes they are, if it is one's.
    pair: CachePair | None = None


def of(budget: str | None, limit: float | None, sides: Sequence[Side], types: Sequence[CacheType]) -> Goal:
    """The goal that was asked for; without one, the bytes of q8_0 keys and q4_0 values. Raises KvsplitError."""
    if budget is not None and limit is not None:
        raise KvsplitError("--budget and --limit are two goals: give one of them, and the other comes of it.")
    if limit is not None:
        if not 0 < limit < float("inf"):
            raise KvsplitError(
                f"--limit must be more than 0 nats of damage, not {limit:g}: 0.01 is what compare takes."
            )
        return Goal(f"damage of at most {limit:g} nats", limit=limit)
    if budget is None:
        k8v4 = CachePair(Q8_0, Q4_0)
        return Goal("the bytes of q8_0 keys and q4_0 values", bytes_of(sides, k8v4), pair=k8v4)
    taken = _bytes(budget, bytes_of(sides, CachePair(F16, F16)))
    f16, least = (bytes_of(sides, CachePair(each, each)) for each in (F16, types[-1]))
    if taken >= f16:
        raise KvsplitError(
            f"--budget {budget} has room for the f16 cache ({units.size(f16)}): leave the model as it is."
        )
    if taken < least:
        raise KvsplitError(
            f"--budget {budget} is less than {types[-1].name} takes in all layers, {units.size(least)}: give "
            f"{100 * least / f16:.1f}% or more."
        )
    return Goal(f"--budget {budget}", budget=taken)


def _bytes(text: str, f16: int) -> int:
    """Bytes from "41%" (of the f16 cache), "6.5bits" (mean of all values) or "72MiB"."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(%|bits?)", text.strip().lower())
    if match:
        return int(f16 * float(match[1]) / (100 if match[2] == "%" else F16.bits) + 1e-6)
    try:
        return units.parse_size(text)
    except KvsplitError:
        raise KvsplitError(
            f"--budget {text!r} is no share, bits or size: write 41% (of the f16 cache), 6.5bits (mean of a value) or 72MiB."
        ) from None
