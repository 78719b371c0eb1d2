"""Numbers as a person reads and writes them."""

from __future__ import annotations

import re

from .errors import KvsplitError

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def size(n: float) -> str:
    """``n`` bytes in the largest binary unit that leaves a whole number before the point: 93.50 MiB."""
    if n < 1024:
        return f"{n:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        n /= 1024
        if n < 1024:
            return f"{n:.2f} {unit}"
    return f"{n / 1024:.2f} TiB"


def parse_size(text: str) -> int:
    """Bytes from "10GB", "500 MiB" or a plain number. Raises KvsplitError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(K|M|G|T|KI|MI|GI|TI)?B?", text.strip().upper())
    if not match:
        raise KvsplitError(f"{text!r} is not a size: write it like 10GB or 500MiB.")
    return int(float(match[1]) * _FACTORS[match[2] or ""])
