"""How fast prompts are read and answers written, by length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..bench.results import Results


def draw(results: Results, beside: Results | None = None) -> Figure | None:
    if not any("prompt_tps" in cell for cell in results.cells()):
        return None
    drawn, (left, right) = style.figure(results, columns=2, width=8.5, height=3.9)
    rate(results, left, "prompt_tps", "prompt, from nothing (tokens/s)", beside)
    rate(results, right, "generation_tps", "generation behind it (tokens/s)", beside)
    drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=7)
    left.set_title(f"Reading a prompt that fills the context{title_note(beside)}")
    right.set_title(f"Generating at its end{title_note(beside)}")
    return drawn


def title_note(beside: Results | None) -> str:
    """What a title says of results that are drawn behind."""
    if beside is None:
        return ""
    return f"\n(faint: {'with' if beside.about['backend']['patches'] else 'without'} the patches)"


def rate(results: Results, axes: Axes, key: str, words: str, beside: Results | None = None) -> None:
    """Median with the smallest and largest of the runs; of ``beside`` the median alone, faintly."""
    if beside is not None:
        for pair in beside.pairs():
            cells = [cell for n in beside.lengths() if key in (cell := beside.cell(pair, n))]
            shown = style.line_style(pair, beside.pairs()) | {"label": None, "alpha": 0.3}
            axes.plot([c["n_ctx"] for c in cells], [c[key][0] for c in cells], **shown)
    for pair in results.pairs():
        cells = [cell for n in results.lengths() if key in (cell := results.cell(pair, n))]
        values, error = style.error_bars([cell[key] for cell in cells])
        axes.errorbar(
            [c["n_ctx"] for c in cells], values, yerr=error, capsize=3, **style.line_style(pair, results.pairs())
        )
    style.lengths_axis(axes, results.lengths())
    style.log_axis(axes)
    axes.set_ylabel(words)
