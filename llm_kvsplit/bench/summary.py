"""Results as tables: for the terminal and for summary.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..units import size
from .results import Results

#: A table: the heads of the columns, then a row for each line.
Rows = list[tuple[str, ...]]

#: Damage in nats that a cache may do and still be recommended: all of its 95 % interval lies below. docs/evidence/verdict.md
#: says what that is beside the quantization of weights.
LARGEST_DAMAGE = 0.01

_HEAD = (
    "", "KV cache", "saved", "prompt t/s", "generation t/s", "perplexity", "damage", "mean KL", "99.9 % KL", "same token",
)  # fmt: skip


def rows(results: Results, n_ctx: int) -> Rows:
    """The table of one length: a row for each configuration, the first the heads of the columns."""
    cells = [results.cell(pair, n_ctx) for pair in results.pairs()]
    f16 = next((cell.get("kv_bytes") for cell in cells if cell["pair"] == "f16"), None)
    judged = any("ppl_change" in cell for cell in cells)
    return [_HEAD, *(_row(cell, f16, judged) for cell in cells)]


def _row(cell: dict[str, Any], f16_bytes: int | None, judged: bool) -> tuple[str, ...]:
    taken = cell.get("kv_bytes")
    reference = cell["pair"] == "f16"
    return (
        cell["pair"],
        size(taken) if taken else "",
        f"{1 - taken / f16_bytes:.0%}" if taken and f16_bytes and not reference else "",
        _rate(cell.get("prompt_tps")),
        _rate(cell.get("generation_tps")),
        "reference" if reference and judged else _change(cell.get("ppl_change")),
        plus_minus(cell.get("damage")),
        plus_minus(cell.get("kl_mean")),
        f"{cell['kl_999'][0]:.3f}" if "kl_999" in cell else "",
        _share(cell.get("same_top")),
    )


def _rate(spread: list[float] | None) -> str:
    if not spread:
        return ""
    middle, low, high = spread
    digits = 0 if middle >= 100 else 1
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})" if low != high else f"{middle:.{digits}f}"


def _change(interval: list[float] | None) -> str:
    return f"{100 * interval[0]:+.2f} ± {50 * (interval[2] - interval[1]):.2f} %" if interval else ""


def plus_minus(interval: list[float] | None) -> str:
    """A value with half its interval; empty for none."""
    return f"{interval[0]:.5f} ± {(interval[2] - interval[1]) / 2:.5f}" if interval else ""


def _share(interval: list[float] | None) -> str:
    return f"{100 * interval[0]:.1f} ± {50 * (interval[2] - interval[1]):.1f} %" if interval else ""


def beside(results: Results, other: Results, n_ctx: int) -> Rows:
    """A narrow table of one length: sizes and damage, and the median speeds with those of ``other`` in brackets."""
    table: Rows = [("", "KV cache", "prompt t/s", "generation t/s", "perplexity", "damage")]
    for pair in results.pairs():
        cell, theirs = results.cell(pair, n_ctx), other.cell(pair, n_ctx)
        rates = (
            f"{_rate([cell[key][0]] * 3)}" + (f" ({_rate([theirs[key][0]] * 3)})" if key in theirs else "")
            for key in ("prompt_tps", "generation_tps")
        )
        change = "reference" if pair == "f16" else _change(cell.get("ppl_change"))
        table.append((pair, size(cell["kv_bytes"]), *rates, change, plus_minus(cell.get("damage"))))
    return table


def plain(table: Rows) -> str:
    """A table for the terminal, without columns that are empty."""
    table = _without_empty_columns(table)
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for row in table:
        first, rest = row[0].ljust(widths[0]), (text.rjust(width) for text, width in zip(row[1:], widths[1:]))
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def markdown(table: Rows) -> str:
    table = _without_empty_columns(table)
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "| " + " | ".join(["---"] + ["---:"] * (len(table[0]) - 1)) + " |", *lines[1:]])


def _without_empty_columns(table: Rows) -> Rows:
    keep = [i for i in range(len(table[0])) if i == 0 or any(row[i] for row in table[1:])]
    return [tuple(row[i] for i in keep) for row in table]


def caption(results: Results) -> str:
    """Model, machine and library in a line."""
    about = results.about
    model, machine, backend = about["model"], about["machine"], about["backend"]
    where = ", ".join(machine["devices"]) or machine["cpu"]
    upstream = backend.get("upstream")
    library = f"llama.cpp {upstream[:9]}" if upstream else f"llama-cpp-python {backend['bindings']}"
    return (
        f"{model['name']} ({model['architecture']}, {model['layers']} layers, {model['weights']}) on {where}, "
        f"{about['settings']['threads']} threads, {library}"
        f"{' with the patch series' if backend['patches'] else ''}"
    )


def recommended(results: Results, n_ctx: int) -> dict[str, Any]:
    """The cell with the smallest cache whose damage is surely small enough, else f16's."""
    sound = [cell for cell in _judged(results, n_ctx) if cell["damage"][2] <= LARGEST_DAMAGE]
    return min(sound, key=_by_size, default=results.cell("f16", n_ctx))


def _judged(results: Results, n_ctx: int) -> list[dict[str, Any]]:
    return [cell for pair in results.pairs() if "damage" in (cell := results.cell(pair, n_ctx))]


def _by_size(cell: dict[str, Any]) -> tuple[int, float]:
    return (cell["kv_bytes"], cell["damage"][0])


def advice(results: Results, n_ctx: int) -> str:
    """``recommended`` in words: what it does in the worst of a thousand places, and what could not be decided."""
    best, f16 = recommended(results, n_ctx), results.cell("f16", n_ctx)
    smaller = [
        cell for cell in _judged(results, n_ctx)
        if cell["damage"][1] <= LARGEST_DAMAGE < cell["damage"][2] and cell["kv_bytes"] < best["kv_bytes"]
    ]  # fmt: skip
    if best["pair"] == "f16":
        words = [f"Recommended: stay with f16, since no other pair's damage is surely below {LARGEST_DAMAGE} nats."]
        if judged := _judged(results, n_ctx):
            words.append(_worst_places(min(judged, key=lambda cell: cell["damage"][0]), f16))
    else:
        words = [
            f"Recommended: {best['pair']}, the smallest cache whose damage is surely below {LARGEST_DAMAGE} nats: it takes "
            f"{best['kv_bytes'] / f16['kv_bytes']:.0%} of f16's bytes.",
            _worst_places(best, f16),
        ]
    for cell in sorted(smaller, key=_by_size):
        words.append(
            f"{cell['pair']} is smaller still, and its damage ({plus_minus(cell['damage'])}) too near the limit to tell: "
            "'llm kvsplit bench' measures more places."
        )
    return "\n".join(words)


def _worst_places(cell: dict[str, Any], f16: dict[str, Any]) -> str:
    return (
        f"In one of a thousand places {cell['pair']} moves at least {cell['moved_999'][0]:.0%} of the probability to other "
        f"tokens (99.9 % KL {cell['kl_999'][0]:.3f}); the model's own roundings move {f16['moved_999'][0]:.0%} "
        f"({f16['kl_999'][0]:.3f})."
    )


@dataclass(frozen=True)
class TitledTable:
    title: str
    rows: Rows
    #: What a reader has to know of it; empty for nothing.
    note: str = ""


def tables(results: Results) -> list[TitledTable]:
    """Everything that was measured."""
    trained = results.about["model"]["n_ctx_train"]
    tables = []
    for n_ctx in results.lengths():
        note = f"The model was trained for {trained} tokens, so quality ends there." if n_ctx > trained else ""
        tables.append(TitledTable(f"{n_ctx} tokens of context", rows(results, n_ctx), note))
    if any("peak_bytes" in cell for cell in results.cells()):
        tables.append(_peaks(results))
    if cells := [cell for cell in results.cells() if "needles" in cell]:
        tables.append(_needles(cells))
    if layers := results.runs.get("layers"):
        note = (
            f"Mean KL divergence in nats when {layers['cache_type']} blocks replace the f16 rows of that layer and side "
            "alone, and the relative error of that layer's attention output."
        )
        tables.append(TitledTable("One layer and side at a time", _layer_rows(layers), note))
    return tables


def _peaks(results: Results) -> TitledTable:
    lengths = results.lengths()
    table: Rows = [("", *(f"{n_ctx} tokens" for n_ctx in lengths))]
    for pair in results.pairs():
        peaks = [results.cell(pair, n_ctx).get("peak_bytes") for n_ctx in lengths]
        table.append((pair, *(size(peak[0]) if peak else "" for peak in peaks)))
    note = "Of each run's own process: Python and the library, weights, cache and buffers; median of the runs."
    return TitledTable("Peak memory of the process", table, note)


def _needles(cells: list[dict[str, Any]]) -> TitledTable:
    table: Rows = [("", "context", "numbers found")]
    table += [(cell["pair"], str(cell["n_ctx"]), f"{cell['needles'][0]} of {cell['needles'][1]}") for cell in cells]
    reference = [cell["needles"] for cell in cells if cell["pair"] == "f16"]
    poor = reference and sum(right for right, _ in reference) < sum(asked for _, asked in reference) / 2
    note = "With f16 this model finds few of them itself, so this says nothing of the caches." if poor else ""
    return TitledTable("Numbers planted in the text, asked for at its end", table, note)


#: How to read the tables of ``rows``.
LEGEND = (
    "Speeds: median of the runs (smallest-largest), a prompt from nothing and 32 tokens behind it. Quality against the f16 "
    "cache on the same tokens, second halves of the windows, ± half a 95 % interval; KL divergence in nats. f16's own row is "
    "f16 nudged by a ten-thousandth: what the model's roundings alone do to any change. Damage is the mean KL above that."
)


def page(results: Results) -> str:
    """summary.md: what was measured, on what, and how to read it."""
    about = results.about
    parts = [
        f"# {about['model']['name']}: KV cache by bits\n",
        f"{caption(results)}; model SHA-256 `{about['model']['sha256']}`, text {about['text']['name']}, SHA-256 "
        f"`{about['text']['sha256']}`; made by {about['made_by']}.\n",
        f"{LEGEND}\n",
    ]
    for table in tables(results):
        parts.append(f"## {table.title}\n\n{markdown(table.rows)}\n")
        if table.note:
            parts.append(f"{table.note}\n")
    return "\n".join(parts)


def _layer_rows(layers: dict[str, Any]) -> Rows:
    table: Rows = [("layer", "keys: KL", "keys: output error", "values: KL", "values: output error")]
    for row in layers["rows"]:
        k, v = row["k"], row["v"]
        table.append((str(row["layer"]), *(f"{x:.5f}" for x in (k["kl"], k["error"], v["kl"], v["error"]))))
    return table
