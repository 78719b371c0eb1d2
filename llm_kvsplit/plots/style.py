"""What pictures have in common: a colour and a mark for each configuration. Either tells them apart."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KvsplitError
from ..kvtypes import USUAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..bench.results import Results

#: Okabe and Ito's colours, from dark to light in grey, each with a mark and a line of its own.
_LINE_STYLES = (
    ("#000000", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#D55E00", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
    ("#E69F00", "X", (0, (6, 2))),
)
_HATCHES = ("", "//", "\\\\", "xx", "..", "++", "oo")
_USUAL = tuple(map(str, USUAL))


def load() -> None:
    """Import matplotlib. Raises KvsplitError when it is not there."""
    try:
        import matplotlib
    except ImportError as error:
        raise KvsplitError(
            "Pictures need matplotlib, which is not installed: run 'llm install llm-kvsplit[plot]'."
        ) from error
    matplotlib.use("agg")
    matplotlib.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "figure.dpi": 160,
            "svg.fonttype": "none",  # text stays text: a fifth of the bytes, and it can be searched
            "svg.hashsalt": "llm-kvsplit",  # the same picture is the same file
            "legend.frameon": False,
        }
    )


def line_style(pair: str, pairs: list[str]) -> dict[str, Any]:
    """Colour, marker and line style of a configuration; the usual five always have the same."""
    colour, marker, line = _LINE_STYLES[_position(pair, pairs)]
    # K8V4 and K4V8 take the same bytes: the one's mark shows within the other's.
    hollow = {"markerfacecolor": "none", "markersize": 9} if pair == "K4V8" else {}
    return {"color": colour, "marker": marker, "linestyle": line, "label": pair, **hollow}


def bar_style(pair: str, pairs: list[str]) -> dict[str, Any]:
    """The same for a bar, with a hatch instead of a marker."""
    position = _position(pair, pairs)
    return {"facecolor": _LINE_STYLES[position][0], "hatch": _HATCHES[position], "edgecolor": "white", "linewidth": 0.5}


def _position(pair: str, pairs: list[str]) -> int:
    others = [each for each in pairs if each not in _USUAL]
    position = _USUAL.index(pair) if pair in _USUAL else len(_USUAL) + others.index(pair)
    return position % len(_LINE_STYLES)


def figure(
    results: Results, *, columns: int = 1, rows: int = 1, width: float = 6.0, height: float = 3.8
) -> tuple[Figure, Any]:
    """A figure with its caption below, and its axes (an array for more than one)."""
    from matplotlib import pyplot

    from ..bench.summary import caption

    drawn, axes = pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")
    lines = textwrap.fill(caption(results), int(width * 17))
    drawn.supxlabel(lines, fontsize=7, color="#444444", x=0.01, ha="left")
    return drawn, axes


def lengths_axis(axes: Axes, lengths: list[int]) -> None:
    """A logarithmic axis of context lengths with whole numbers on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.minorticks_off()
    axes.set_xlabel("context (tokens)")


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis with numbers as a person writes them."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def error_bars(intervals: list[list[float]], scale: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """[value, low, high] of each point as errorbar() wants them: the values, and how far to either side."""
    values = [scale * value for value, _, _ in intervals]
    below = [max(0.0, scale * (value - low)) for value, low, _ in intervals]
    above = [max(0.0, scale * (high - value)) for value, _, high in intervals]
    return values, [below, above]


def save(drawn: Figure, file: Path) -> None:
    """Write a PNG or SVG. Raises KvsplitError when the disk refuses."""
    from matplotlib import pyplot

    metadata = {"Date": None} if file.suffix == ".svg" else {"Software": None}
    try:
        drawn.savefig(file, metadata=metadata, dpi=72 if file.suffix == ".svg" else "figure")
    except OSError as error:
        raise KvsplitError(f"{file} cannot be written ({error.strerror}): choose another folder with --out.") from error
    if file.suffix == ".svg":
        # matplotlib ends lines with spaces, which version control shows as faults.
        file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
    else:
        pyplot.close(drawn)
