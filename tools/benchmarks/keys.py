"""Why keys are sensitive: the data behind docs/evidence/keys.md.

    python tools/benchmarks/keys.py FOLDER MODEL.f16.gguf

rounds the keys, then the values, of one layer at a time, turned as llama.cpp turns them, on their way into an f16 cache.
For each layer it says how far the layer's attention comes out from where it was, and the predictions from those of the
f16 cache. Beside that stands what a layer's queries and keys let expect. Results are NAME.json and NAME.md.

Rounding leaves an error of variance e to each value, as a share of its mean square; turned values have it alike. A logit
is q·k/√d, so its error has the variance e |q|²|k|²/d². Where that is small, it is the relative error of the attention
weight, and e is that of the value which the weight takes. Both are averaged over the same tokens. So keys weigh
|q|²|k|²/d² times as much as values: the layer's *reach*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evidence
import numpy as np

from llm_kvsplit import demo, kvtypes, machine
from llm_kvsplit.bench import layers, quality
from llm_kvsplit.builds import choice
from llm_kvsplit.engine.weights import LoadOptions, Weights

N_CTX, WINDOWS = 512, 2
TYPE = kvtypes.IQ4_NL


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", help="of the files; the model's if not given")
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    given = parser.parse_args()
    name = given.name or given.model.stem
    weights = Weights(LoadOptions(given.model, use_extra_bufts=choice.extra_bufts()))
    try:
        data = measure(weights, name, given.threads)
    finally:
        weights.close()
    evidence.write(given.folder, name, data, markdown(data))


def measure(weights: Weights, name: str, threads: int) -> dict[str, Any]:
    tokens = weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=True, parse_special=False)
    damage = layers.measure(weights, tokens, N_CTX, WINDOWS, threads, cache_type=TYPE)
    rows = [row | reach for row, reach in zip(damage["rows"], reaches(weights, tokens, threads), strict=True)]
    return {"model": name, "type": TYPE.name, "rows": rows}


def reaches(weights: Weights, tokens: list[int], threads: int) -> list[dict[str, float]]:
    """Of each layer |q|²|k|²/d² over the second half of a window, and the shares of squares that rounding leaves."""
    rounding = layers.Rounding(weights, N_CTX, threads)
    names = {f"Qcur-{layer}" for layer in rounding.layers}
    rounding.tap.names |= names
    try:
        rounding.run(quality.windows(tokens, N_CTX, 1)[0], (), TYPE)
        return [_reach(weights, layer, rounding.tap.values) for layer in rounding.layers]
    finally:
        rounding.context.close()


def _reach(weights: Weights, layer: int, values: dict[str, np.ndarray]) -> dict[str, float]:
    shape = weights.header.layers[layer]
    q = values[f"Qcur-{layer}"].reshape(-1, shape.n_head_kv, weights.header.n_head // shape.n_head_kv, shape.head_dim_k)
    k = values[f"Kcur-{layer}"].reshape(-1, shape.n_head_kv, shape.head_dim_k)
    # a head's mean over tokens, then the mean over heads of the product
    squares = np.mean(np.sum(q**2, -1), (0, 2)) * np.mean(np.sum(k**2, -1), 0)
    left = {}
    for side in "kv":
        exact = values[f"{layers._NAMES[side]}-{layer}"]
        error = layers._rounded(weights, layer, side, TYPE, exact).ravel() - exact
        left[f"{side}_left"] = float(np.sum(error**2) / np.sum(exact**2))
    return {"reach": float(np.mean(squares)) / shape.head_dim_k**2, **left}


def markdown(data: dict[str, Any]) -> str:
    lines = [
        f"# {data['model']}: keys and values in {data['type']}, one side of one layer",
        "",
        "| layer | left of squares: keys | values | reach | attention's error², keys to values | damage: keys | values | ratio |",
        "| ---: |" + " ---: |" * 7,
    ]
    for row in data["rows"]:
        cells = [row["layer"], f"{row['k_left']:.2%}", f"{row['v_left']:.2%}", f"{row['reach']:.1f}"]
        cells += [f"{(row['k']['error'] / row['v']['error']) ** 2:.1f}"]
        cells += [f"{1000 * row[side]['kl']:.2f}" for side in "kv"]
        cells += [f"{row['k']['kl'] / row['v']['kl']:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
