"""Memory over time, as a picture and as one that moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..units import size
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from ..bench.memory import Sample

_FRAMES = 40

#: Configuration -> bytes of its cache, and the samples of its run.
Runs = dict[str, "tuple[int, list[Sample]]"]


def save(runs: Runs, caption: str, file: Path) -> None:
    """Write a GIF that moves, or a PNG or SVG that does not."""
    if file.suffix == ".gif":
        _animate(runs, caption, file)
    else:
        style.save(_draw(runs, caption)[0], file)


def _draw(runs: Runs, caption: str) -> tuple[Figure, list[tuple[Line2D, list[float], list[float]]]]:
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    lines = []
    for pair, (kv_bytes, samples) in runs.items():
        shown = style.line_style(pair, list(runs)) | {"label": f"{pair}: cache of {size(kv_bytes)}", "markersize": 4}
        xs, ys = [s.seconds for s in samples], [s.bytes / 2**20 for s in samples]
        (line,) = axes.plot(xs, ys, markevery=max(1, len(xs) // 12), **shown)
        # Beyond the last line's end there is room for its peak.
        axes.annotate(f"{max(ys):.0f}", (xs[-1], ys[-1]), textcoords="offset points", xytext=(5, -3), fontsize=8)
        lines.append((line, xs, ys))
    axes.margins(x=0.08)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("memory of the process (MiB)")
    axes.set_title("The same prompt under two caches" if len(runs) == 2 else "The same prompt under each cache")
    axes.legend(loc="lower right")
    drawn.supxlabel(caption, fontsize=7, color="#444444", x=0.01, ha="left")
    return drawn, lines


def _animate(runs: Runs, caption: str, file: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.animation import FuncAnimation, PillowWriter

    drawn, lines = _draw(runs, caption)
    for text in list(drawn.axes[0].texts):
        text.remove()
    longest = max(xs[-1] for _, xs, _ in lines)

    def frame(i: int) -> list[Any]:
        now = longest * (i + 1) / _FRAMES
        for line, xs, ys in lines:
            n = sum(x <= now for x in xs)
            line.set_data(xs[:n], ys[:n])
        return [line for line, _, _ in lines]

    FuncAnimation(drawn, frame, frames=_FRAMES).save(file, PillowWriter(fps=10), dpi=90)
    pyplot.close(drawn)
