"""How far a transfer is, on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from .units import size as as_size

_STEP = 1 << 18


@contextmanager
def transfer(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar where stderr is a terminal, else one line; yields what to call with each number of bytes that came."""
    at = shown = 0
    step = max(_STEP, (total or 0) // 1000)  # drawing it for every piece would take longer than the piece

    def done_of_total(_: int | None) -> str:
        return as_size(at) + (f" of {as_size(total)}" if total else "")

    with click.progressbar(
        length=total or 0,
        label=label,
        file=sys.stderr,
        item_show_func=done_of_total,
    ) as bar:

        def advance(n: int) -> None:
            nonlocal at, shown
            at += n
            if at - shown >= step or at == total:
                bar.update(at - shown, current_item=at)
                shown = at

        yield advance
