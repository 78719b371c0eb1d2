"""One figure with all that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import memory, quality, speed, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..bench.results import Results


def draw(results: Results, beside: Results | None = None) -> Figure | None:
    """Cache size, memory against quality, and both speeds; None unless size and quality were measured."""
    if not quality.quantized(results) or not any("kv_bytes" in cell for cell in results.cells()):
        return None
    drawn, panels = style.figure(results, rows=2, columns=2, width=8.5, height=6.4)
    memory.bytes_by_context(results, panels[0][0])
    n_ctx = quality.size_against_divergence(results, panels[0][1])
    speed.rate(results, panels[1][0], "prompt_tps", "prompt (tokens/s)", beside)
    speed.rate(results, panels[1][1], "generation_tps", "generation (tokens/s)", beside)
    note = speed.title_note(beside)
    for axes, title in zip(
        panels.flat,
        (
            "KV cache",
            f"Memory against quality, {n_ctx} tokens",
            f"Reading a prompt{note}",
            f"Generating at its end{note}",
        ),
    ):
        axes.set_title(title)
    drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=7)
    return drawn
