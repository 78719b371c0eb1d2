"""What the cache takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..bench.results import Results


def by_context(results: Results) -> Figure | None:
    """KV cache as allocated, by length."""
    if not any("kv_bytes" in cell for cell in results.cells()):
        return None
    drawn, axes = style.figure(results)
    bytes_by_context(results, axes)
    axes.legend()
    axes.set_title("KV cache as llama.cpp allocated it")
    return drawn


def bytes_by_context(results: Results, axes: Axes) -> None:
    for pair in results.pairs():
        cells = [cell for n in results.lengths() if "kv_bytes" in (cell := results.cell(pair, n))]
        axes.plot(
            [c["n_ctx"] for c in cells],
            [c["kv_bytes"] / 2**20 for c in cells],
            **style.line_style(pair, results.pairs()),
        )
    style.lengths_axis(axes, results.lengths())
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("KV cache (MiB)")
