"""One layer at a time, and what heads attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.results import by_bits
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..bench.results import Results


def heat_map(results: Results) -> Figure | None:
    """KL divergence, and the attention output's error, when one side of one layer is quantized."""
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogLocator

    analysis = results.runs.get("layers")
    if not analysis:
        return None
    rows = analysis["rows"]
    width = max(6.0, 0.42 * len(rows) + 2)
    drawn, panels = style.figure(results, rows=2, width=width, height=4.4)
    for axes, key, scale, norm, words in (
        (panels[0], "kl", 1, LogNorm(), "mean KL\ndivergence (nats)"),
        (panels[1], "error", 100, Normalize(), "error of attention\noutput (%)"),
    ):
        values = scale * np.array([[row[side][key] for row in rows] for side in ("k", "v")])
        image = axes.imshow(values, cmap="cividis", norm=norm, aspect="auto")
        axes.set_yticks([0, 1], ["keys", "values"])
        axes.set_xticks(range(len(rows)), [str(row["layer"]) for row in rows])
        axes.grid(visible=False)
        ticks = LogLocator(base=10, subs=(1, 2, 5)) if key == "kl" else None
        bar = drawn.colorbar(image, ax=axes, label=words, format="%g", ticks=ticks)
        bar.minorticks_off()
        for (i, j), value in np.ndenumerate(values) if len(rows) <= 12 else ():
            text = f"{value:.1f}" if key == "error" else f"{value:.5f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if norm(value) < 0.5 else "black")
    panels[1].set_xlabel("layer")
    panels[0].set_title(
        f"Only this layer's keys or values in {analysis['cache_type']} ({analysis['n_ctx']} tokens of context)"
    )
    return drawn


def attention(results: Results) -> Figure | None:
    """Heads that 4-bit keys change most, under f16, K8V4 and K4V8."""
    from matplotlib.colors import PowerNorm

    from ..bench.attention import unpack

    analysis = results.runs.get("heads")
    if not analysis:
        return None
    heads = analysis["heads"]
    names = sorted(heads[0]["patterns"], key=by_bits)
    drawn, panels = style.figure(
        results, rows=len(heads), columns=len(names), width=8.0, height=2.45 * len(heads) + 0.6
    )
    for row, head in zip(panels.reshape(len(heads), -1), heads):
        for axes, name in zip(row, names):
            image = axes.imshow(
                unpack(head["patterns"][name]), cmap="Greys", norm=PowerNorm(0.4, 0, 1), interpolation="nearest"
            )
            moved = head["moved"].get(name)
            axes.set_title(name if moved is None else f"{name}: {100 * moved:.1f} % moved", fontsize=9)
            axes.grid(visible=False)
        row[0].set_ylabel(f"layer {head['layer']}, head {head['head']}\nquery (token)")
    for axes in panels.reshape(len(heads), -1)[-1]:
        axes.set_xlabel("key (token)")
    drawn.colorbar(image, ax=panels, label="attention weight", shrink=0.5)
    drawn.suptitle("Where the heads look that 4-bit keys change most", fontsize=10)
    return drawn
