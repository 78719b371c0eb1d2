"""What quantizing does to predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..bench.results import Results

#: Damage below this is drawn at it, since the axis is logarithmic: the difference of two means can be below zero.
_FLOOR = 1e-5


def measured(results: Results, key: str = "kl_mean") -> list[dict[str, Any]]:
    return [cell for cell in results.cells() if key in cell]


def quantized(results: Results) -> list[dict[str, Any]]:
    return [cell for cell in measured(results) if cell["pair"] != "f16"]


def damage_or_kl(cell: dict[str, Any]) -> list[float]:
    """Damage with its interval; of results without a nudged f16 cache the whole KL divergence."""
    return cell.get("damage", cell["kl_mean"])


def _damage_label(cells: list[dict[str, Any]]) -> str:
    return "damage: KL above f16's own" if any("damage" in cell for cell in cells) else "mean KL divergence"


def pareto(results: Results) -> Figure | None:
    """Cache size against KL divergence, with the front that nothing beats, at the longest length with most points."""
    if not quantized(results):
        return None
    drawn, axes = style.figure(results)
    n_ctx = size_against_divergence(results, axes)
    axes.set_title(f"Memory against quality, {n_ctx} tokens of context")
    return drawn


def size_against_divergence(results: Results, axes: Axes) -> int:
    every = [cell["n_ctx"] for cell in quantized(results)]
    n_ctx = max(every, key=lambda n: (every.count(n), n))
    cells = [cell for cell in quantized(results) if cell["n_ctx"] == n_ctx]
    f16 = results.cell("f16", n_ctx).get("kv_bytes")
    points = []
    for cell in cells:
        if "kv_bytes" not in cell:
            continue
        x = 100 * cell["kv_bytes"] / f16 if f16 else cell["kv_bytes"] / 2**20
        (y,), error = style.error_bars([damage_or_kl(cell)])
        shown = style.line_style(cell["pair"], results.pairs()) | {"linestyle": "none"}
        axes.errorbar([x], [max(y, _FLOOR)], yerr=error, capsize=3, **shown)
        axes.annotate(cell["pair"], (x, max(y, _FLOOR)), textcoords="offset points", xytext=(9, 4))
        points.append((x, y))
    front_x, front_y = zip(*_front(points))
    axes.step(front_x, front_y, where="post", label="nothing is better on both", color="#999999", linewidth=1, zorder=0)
    style.log_axis(axes)
    axes.set_xlabel("KV cache (% of f16)" if f16 else "KV cache (MiB)")
    axes.set_ylabel(f"{_damage_label(cells)} (nats)")
    axes.margins(x=0.2)
    axes.legend(handles=axes.get_lines()[-1:], loc="lower left")
    return n_ctx


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points, from left to right, that no other is at once left of and below."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def perplexity(results: Results) -> Figure | None:
    """Change of perplexity against f16 with 95 % intervals, by length."""
    if not measured(results, "ppl_change"):
        return None
    drawn, axes = style.figure(results)
    _bars(results, axes, "ppl_change", 100)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("change of perplexity (%)")
    axes.set_title("Perplexity against the f16 cache (bars: 95 % interval)")
    return drawn


def divergence(results: Results) -> Figure | None:
    """Mean KL divergence with 95 % intervals, by length."""
    if not measured(results):
        return None
    drawn, axes = style.figure(results)
    divergence_bars(results, axes)
    axes.set_title("KL divergence from f16 (95 % intervals; f16: nudged)")
    return drawn


def divergence_bars(results: Results, axes: Axes) -> None:
    _bars(results, axes, "kl_mean", 1)
    style.log_axis(axes)
    axes.set_ylabel("mean KL divergence (nats)")


def _bars(results: Results, axes: Axes, key: str, scale: float) -> None:
    lengths = sorted({cell["n_ctx"] for cell in measured(results, key)})
    pairs = [pair for pair in results.pairs() if any(key in results.cell(pair, n) for n in lengths)]
    width = 0.8 / len(pairs)
    for i, pair in enumerate(pairs):
        cells = [(at, results.cell(pair, n)) for at, n in enumerate(lengths) if key in results.cell(pair, n)]
        values, error = style.error_bars([cell[key] for _, cell in cells], scale)
        places = [at + (i - (len(pairs) - 1) / 2) * width for at, _ in cells]
        # The hatch is drawn in the colour of the edge, and so would the error bar be: it is drawn by itself.
        axes.bar(places, values, width * 0.95, label=pair, **style.bar_style(pair, results.pairs()))
        axes.errorbar(places, values, yerr=error, fmt="none", ecolor="black", elinewidth=1, capsize=2.5)
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_xlabel("context (tokens)")
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=len(pairs), loc="upper center", bbox_to_anchor=(0.5, -0.18), handlelength=1.8)


def sides(results: Results) -> Figure | None:
    """Which side needs the bits: the same bytes, once with 4-bit values and once with 4-bit keys."""
    lengths = [n for n in results.lengths() if all("kl_mean" in results.cell(p, n) for p in ("K8V4", "K4V8"))]
    if not lengths:
        return None
    drawn, axes = style.figure(results)
    for pair, words in (("K4V8", "keys in 4 bits, values in 8"), ("K8V4", "keys in 8 bits, values in 4")):
        values, error = style.error_bars([damage_or_kl(results.cell(pair, n)) for n in lengths])
        shown = style.line_style(pair, results.pairs()) | {"label": words}
        axes.errorbar(lengths, [max(value, _FLOOR) for value in values], yerr=error, capsize=3, **shown)
    for n in lengths:
        few_keys, few_values = (max(damage_or_kl(results.cell(pair, n))[0], _FLOOR) for pair in ("K4V8", "K8V4"))
        between = (few_keys * few_values) ** 0.5
        axes.annotate(f"{few_keys / few_values:.1f}x", (n, between), ha="center", va="center", fontsize=8)
    style.lengths_axis(axes, lengths)
    style.log_axis(axes)
    axes.margins(x=0.1)
    axes.set_ylabel(f"{_damage_label([results.cell('K8V4', n) for n in lengths])} (nats)")
    axes.set_title("The same bytes, spent on keys or on values")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return drawn


def needles(results: Results) -> Figure | None:
    """Share of planted numbers that were found, by length."""
    cells = measured(results, "needles")
    if not cells:
        return None
    drawn, axes = style.figure(results)
    pairs = [pair for pair in results.pairs() if any(cell["pair"] == pair for cell in cells)]
    lengths = sorted({cell["n_ctx"] for cell in cells})
    width = 0.8 / len(pairs)
    for i, pair in enumerate(pairs):
        answers = [
            (at, cell["needles"]) for at, n in enumerate(lengths) if "needles" in (cell := results.cell(pair, n))
        ]
        places = [at + (i - (len(pairs) - 1) / 2) * width for at, _ in answers]
        shares = [100 * right / asked for _, (right, asked) in answers]
        bars = axes.bar(places, shares, width * 0.95, label=pair, **style.bar_style(pair, results.pairs()))
        axes.bar_label(bars, [str(right) for _, (right, _) in answers], padding=1, fontsize=8)
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_ylim(0, 108)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("numbers found (%)")
    axes.set_title(f"Numbers planted in the text and asked for at its end ({cells[0]['needles'][1]} each)")
    axes.legend(ncols=len(pairs), loc="upper center", bbox_to_anchor=(0.5, -0.18), handlelength=1.8)
    return drawn
