"""How fast prompts are read and answers written, by length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..bench.results import Results


def draw(results: "Results"):
    if not any("prompt_tps" in cell for cell in results.cells()):
        return None
    drawn, (left, right) = style.figure(results, columns=2, width=8.5, height=3.9)
    rate(results, left, "prompt_tps", "prompt, from nothing (tokens/s)")
    rate(results, right, "generation_tps", "generation behind it (tokens/s)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=7)
    left.set_title("Reading a prompt that fills the context")
    right.set_title("Generating at its end")
    return drawn


def rate(results: "Results", axes: "Axes", key: str, words: str) -> None:
    """Median with the smallest and largest of the runs."""
    for pair in results.pairs():
        cells = [cell for n in results.lengths() if key in (cell := results.cell(pair, n))]
        values, error = style.errors([cell[key] for cell in cells])
        axes.errorbar([c["n_ctx"] for c in cells], values, yerr=error, capsize=3, **style.look(pair, results.pairs()))
    style.lengths_axis(axes, results.lengths())
    style.log_axis(axes)
    axes.set_ylabel(words)
