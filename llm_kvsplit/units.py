"""Numbers as a person reads them."""


def size(n: float) -> str:
    """``n`` bytes in the largest binary unit that leaves a whole number before the point: 93.50 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024:
            break
        n /= 1024
    else:
        unit = "TiB"
    return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.2f} {unit}"
