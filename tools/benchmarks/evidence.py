"""What the benchmarks share: their command line, the pairs they measure, and results as NAME.json and NAME.md."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_kvsplit import files
from llm_kvsplit.kvtypes import USUAL, CachePair

#: Without K4V8: it takes the bytes of K8V4, and as long.
PAIRS = tuple(pair for pair in USUAL if pair.k.bits >= pair.v.bits)


def parser(description: str | None) -> argparse.ArgumentParser:
    """One whose help is the benchmark's docstring, as it stands there."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def read(folder: Path, name: str) -> dict[str, Any]:
    """What was measured before; empty for nothing."""
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def write(folder: Path, name: str, results: dict[str, Any], page: str) -> None:
    """The results, and the page that shows them unless it is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(folder / f"{name}.json", json.dumps(results, indent=1) + "\n")
    if page:
        files.write_whole(folder / f"{name}.md", page)


def machine(about: dict[str, Any], threads: int) -> str:
    """The machine of ``cpu.this_machine`` in words."""
    return f"{about['cpu']}, {about['cores']} cores ({', '.join(about['features'])}), {threads} threads"


def spread(samples: Sequence[float]) -> str:
    """Their median, and the least and greatest of several."""
    span = f" ({min(samples):.0f}–{max(samples):.0f})" if len(samples) > 1 else ""
    return f"{statistics.median(samples):.0f}{span}" if samples else "–"


def ratio(samples: Sequence[float], others: Sequence[float]) -> str:
    """The median of each turn's."""
    turns = [a / b for a, b in zip(samples, others)]
    return f"{statistics.median(turns):.2f}x" if turns else "–"


def cache_bytes(pair: CachePair, tokens: int, *, n_layer: int, n_head_kv: int, head_dim: int) -> float:
    """Bytes of the keys and values of so many tokens in a model whose layers are all alike."""
    return tokens * n_layer * n_head_kv * head_dim * (pair.k.bits_per_value + pair.v.bits_per_value) / 8
