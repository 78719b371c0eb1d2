"""What a cache type's blocks do to keys and values: the data behind docs/evidence/cache-types.md.

    python tools/benchmarks/cache_types.py FOLDER MODEL.f16.gguf [--errors | --seconds N]

rounds the keys, or the values, of all layers as each candidate does, turned as llama.cpp turns them, on their way into an
f16 cache. It says how large the squared error is, as a share of the squares, and how far the predictions are from those of
the f16 cache (mean KL divergence, thousandths of a nat). Candidates are types of ggml and ones that it lacks; all are
computed here with numpy, so that the same code makes all figures. Each measurement is kept in FOLDER/types.json as it is
made; the same call goes on from there, and prints the table. With --errors it is the errors alone, of every eighth head's
row of one window of the bundled text: seconds instead of many minutes.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llm_kvsplit import demo, files
from llm_kvsplit.bench import layers, quality, summary
from llm_kvsplit.builds import choice, probe
from llm_kvsplit.engine import rows
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import F16, CacheType

N_CTX, WINDOWS = 1024, 1
THREADS = 2

#: The levels of ggml's iq4_nl (kvalues_iq4nl in ggml-common.h).
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: What ``fitted`` gives for blocks of normal values.
FITTED_16 = (-127, -93, -71, -54, -39, -26, -14, -3, 8, 19, 30, 42, 55, 70, 90, 114)
FITTED_8 = (-127, -76, -44, -18, 7, 33, 63, 104)
#: What takes the largest value to the last level, times these.
SEARCH = (1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)

Rounding = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    name: str
    #: Bits a value takes, with its share of the scale.
    bits: float
    #: Blocks to what is left of them; float32, shape (blocks, block).
    rounding: Rounding
    block: int = 32


def plain(n: int, x: np.ndarray) -> np.ndarray:
    """Integers from -n to n - 1, the largest value at -n: q4_0, q5_0."""
    d = extremes(x) / -n
    q = np.clip(np.floor(x / nonzero(d)[:, None] + n + 0.5), 0, 2 * n - 1) - n
    return q * half(d)[:, None]


def between(n: int, x: np.ndarray) -> np.ndarray:
    """n steps from the smallest value to the largest: q5_1."""
    low, d = x.min(axis=1), (x.max(axis=1) - x.min(axis=1)) / (n - 1)
    q = np.clip(np.floor((x - low[:, None]) / nonzero(d)[:, None] + 0.5), 0, n - 1)
    return q * half(d)[:, None] + half(low)[:, None]


def levels(table: Sequence[int], factors: Sequence[float], x: np.ndarray, signs: int = 2) -> np.ndarray:
    """The nearest levels, with the scale in 16 bits that least squares give for one of the scales tried."""
    best, kept = np.full(len(x), np.inf, np.float32), np.zeros_like(x)
    for last in (table[0], table[-1])[:signs]:
        for factor in factors:
            q = nearest(table, x, extremes(x) / last * factor)
            d = half((x * q).sum(axis=1) / nonzero((q * q).sum(axis=1)))
            keep_better(best, kept, x, nearest(table, x, d) * d[:, None])
    return kept


def byte_levels(table: Sequence[int], x: np.ndarray) -> np.ndarray:
    """The nearest levels, with the best of the scales nearby in 8 bits: a sign, 5 bits of exponent and 2 of fraction."""
    grid = np.array([2.0**e * (1 + f / 4) / 128 for e in range(-14, 16) for f in range(4)], np.float32)
    best, kept = np.full(len(x), np.inf, np.float32), np.zeros_like(x)
    for last in (table[0], table[-1]):
        exact = extremes(x) / last
        above = np.searchsorted(grid, np.abs(exact))
        for step in (-2, -1, 0):
            d = np.sign(exact) * grid[np.clip(above + step, 0, len(grid) - 1)]
            keep_better(best, kept, x, nearest(table, x, d) * d[:, None])
    return kept


def nearest(table: Sequence[int], x: np.ndarray, d: np.ndarray) -> np.ndarray:
    known = np.asarray(table, np.float32)
    return known[np.searchsorted((known[1:] + known[:-1]) / 2, x / nonzero(d)[:, None])]


def keep_better(best: np.ndarray, kept: np.ndarray, x: np.ndarray, candidate: np.ndarray) -> None:
    error = ((x - candidate) ** 2).sum(axis=1)
    better = error < best
    best[better], kept[better] = error[better], candidate[better]


def extremes(x: np.ndarray) -> np.ndarray:
    return x[np.arange(len(x)), np.abs(x).argmax(axis=1)]


def nonzero(d: np.ndarray) -> np.ndarray:
    return np.where(d == 0, 1, d)


def half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def fitted(n: int, block: int = 32, seed: int = 1) -> list[int]:
    """The levels with the smallest squared error for normal values, their scale chosen with them: Lloyd's iteration."""
    x = np.random.default_rng(seed).standard_normal((8000, block)).astype(np.float32)
    table = np.linspace(-127, 127, n)
    for _ in range(60):
        kept = [np.full(len(x), np.inf), np.ones(len(x)), np.zeros(x.shape, int)]
        for last in (table[0], table[-1]):
            for factor in (1, 0.9, 0.8, 0.7):
                d = extremes(x) / last * factor
                for _ in range(2):
                    index = np.searchsorted((table[1:] + table[:-1]) / 2, x / d[:, None])
                    q = table[index]
                    d = (x * q).sum(axis=1) / (q * q).sum(axis=1)
                    error = ((x - q * d[:, None]) ** 2).sum(axis=1)
                    better = error < kept[0]
                    for whole, part in zip(kept, (error, d, index)):
                        whole[better] = part[better]
        _, d, index = kept
        total = np.bincount(index.ravel(), (x * d[:, None]).ravel(), n)
        weight = np.bincount(index.ravel(), np.broadcast_to(d[:, None] ** 2, x.shape).ravel(), n)
        table = np.sort(total / weight)
        table *= 127 / np.abs(table).max()
    return [round(level) for level in table]


CANDIDATES = (
    Candidate("q6_0 (the series)", 6.5, partial(levels, range(-32, 32), (1,))),
    Candidate("6 bits, scale of the largest", 6.5, partial(plain, 32)),
    Candidate("q5_1", 6, partial(between, 32)),
    Candidate("q5_0", 5.5, partial(plain, 16)),
    Candidate("q5_0 (the series)", 5.5, partial(levels, range(-16, 16), (1, 1.02))),
    Candidate("q4_0", 4.5, partial(plain, 8)),
    Candidate("q4_0, best scale", 4.5, partial(levels, range(-8, 8), SEARCH)),
    Candidate("iq4_nl", 4.5, partial(levels, IQ4_NL, (1,), signs=1)),
    Candidate("iq4_nl (the series)", 4.5, partial(levels, IQ4_NL, (0.98, 1.06))),
    Candidate("iq4_nl, best scale", 4.5, partial(levels, IQ4_NL, SEARCH)),
    Candidate("16 fitted levels", 4.5, partial(levels, FITTED_16, SEARCH)),
    Candidate("16 fitted levels, scale of 8 bits", 4.25, partial(byte_levels, FITTED_16)),
    Candidate("3 bits, scale of the largest", 3.5, partial(plain, 4)),
    Candidate("8 fitted levels", 3.5, partial(levels, FITTED_8, SEARCH)),
    Candidate("8 fitted levels, blocks of 64", 3.25, partial(levels, FITTED_8, SEARCH), 64),
    Candidate("q3_nl (the series)", 3.25, partial(byte_levels, FITTED_8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no measurement after so long")
    parser.add_argument("--fit", action="store_true", help="only print the levels that fit normal values")
    parser.add_argument("--errors", action="store_true", help="only the squared errors, of a sample")
    arguments = parser.parse_args()
    if arguments.fit:
        print(fitted(8), fitted(16))
        return
    if arguments.errors:
        print(errors(arguments.model))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    store = arguments.folder / "types.json"
    runs = json.loads(store.read_text()) if store.exists() else {}
    if not measure(arguments.model, runs, store, time.monotonic() + arguments.seconds):
        print("The time is over; the same call goes on from here.")
    print(page(runs))


def measure(model: Path, runs: dict[str, list[float]], store: Path, until: float) -> bool:
    """Fill ``runs``: "text/window/side/candidate" -> mean KL in nats and the error's share. False when the time is over."""
    topics = pydoc_data.topics.topics
    texts = {"code": demo.SMOKE_TEXT.read_text(), "manual": "\n\n".join(topics[name] for name in sorted(topics))}
    cache = Rounded(model)
    weights = cache.weights
    for window in range(WINDOWS):
        for text, words in texts.items():
            tokens = quality.windows(weights.tokenize(words, add_special=True, parse_special=False), N_CTX, WINDOWS)
            missing = [
                (f"{text}/{window}/{side}/{each.name}", side, each)
                for each in CANDIDATES
                for side in "kv"
                if f"{text}/{window}/{side}/{each.name}" not in runs
            ]
            log_q = cache.run(tokens[window]) if missing else None
            for name, side, candidate in missing:
                if time.monotonic() > until:
                    return False
                log_p = cache.run(tokens[window], side, candidate)
                runs[name] = [float(quality.divergences(log_p, log_q).mean()), cache.error()]
                print(name, runs[name], flush=True)
                files.write_whole(store, json.dumps(runs, indent=1))
    return True


def errors(model: Path) -> str:
    """The table without KL divergences."""
    cache = Rounded(model)
    found: dict[tuple[str, str], list[float]] = {}

    def look(_weights: Weights, layer: int, side: str, _type: CacheType, values: np.ndarray) -> np.ndarray:
        shape = cache.shapes[layer]
        dim = shape.head_dim_k if side == "k" else shape.head_dim_v
        turned = rows.rotated(values.reshape(-1, dim), cache.turn(layer, side))[::8]
        for each in CANDIDATES:
            left = each.rounding(turned.reshape(-1, each.block)).reshape(turned.shape)
            found.setdefault((each.name, side), []).append(float(((turned - left) ** 2).sum() / (turned**2).sum()))
        return values

    layers._rounded = look
    tokens = cache.weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=True, parse_special=False)
    cache.layers.run(tokens[:N_CTX], [(layer, side) for layer in cache.layers.layers for side in "kv"], F16)
    table = [("", "bits", "keys: error", "values: error")]
    for each in CANDIDATES:
        shares = (f"{np.mean(found[each.name, side]):.3%}" for side in "kv")
        table.append((each.name, f"{each.bits:g}", *shares))
    return summary.markdown(table)


class Rounded:
    """An f16 cache whose keys or values are rounded in all layers."""

    def __init__(self, model: Path) -> None:
        self.weights = Weights(LoadOptions(model, use_extra_bufts=probe.result(choice.current()).extra_bufts))
        self.layers = layers.Rounding(self.weights, N_CTX, THREADS)
        self.shapes = self.weights.header.layers
        self.errors: list[float] = []

    def run(self, window: list[int], side: str = "", candidate: Candidate | None = None) -> np.ndarray:
        """Log-probabilities of the window's second half."""
        self.errors.clear()
        layers._rounded = lambda _weights, layer, *_, values: values
        if candidate:
            layers._rounded = lambda _weights, layer, _side, _type, values: self._through(
                candidate, layer, side, values
            )
        return self.layers.run(window, [(each, side) for each in self.layers.layers] if candidate else (), F16)[0]

    def turn(self, layer: int, side: str) -> int:
        shape = self.shapes[layer]
        return rows.rotation(shape.head_dim_k if side == "k" else shape.head_dim_v, keys=side == "k")

    def error(self) -> float:
        """The squared error as a share of the squares, mean of the layers."""
        return float(np.mean(self.errors))

    def _through(self, candidate: Candidate, layer: int, side: str, values: np.ndarray) -> np.ndarray:
        width = self.turn(layer, side)
        turned = rows.rotated(values, width)
        left = candidate.rounding(turned.reshape(-1, candidate.block)).reshape(turned.shape)
        self.errors.append(float(((turned - left) ** 2).sum() / (turned**2).sum()))
        return rows.rotated(left, width)


def page(runs: dict[str, list[float]]) -> str:
    table = [("", "bits", "keys: error", "values: error", "keys: KL", "values: KL", "windows")]
    for each in CANDIDATES:
        sides = [[run for name, run in runs.items() if name.endswith(f"/{side}/{each.name}")] for side in "kv"]
        if all(sides):
            (k_kl, k_error), (v_kl, v_error) = (np.mean(side, axis=0) for side in sides)
            figures = f"{k_error:.2%}", f"{v_error:.2%}", f"{1000 * k_kl:.2f}", f"{1000 * v_kl:.2f}"
            table.append((each.name, f"{each.bits:g}", *figures, str(min(map(len, sides)))))
    return summary.markdown(table)


if __name__ == "__main__":
    main()
