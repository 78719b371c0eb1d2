"""Numbers as a person reads them."""


def size(n: float) -> str:
    """``n`` bytes in the largest binary unit that leaves a whole number before the point: 93.50 MiB."""
    if n < 1024:
        return f"{n:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        n /= 1024
        if n < 1024:
            return f"{n:.2f} {unit}"
    return f"{n / 1024:.2f} TiB"
