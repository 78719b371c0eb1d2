"""Tokens/s of answers with a schema beside free ones, for a small and a large vocabulary."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from llm_kvsplit import demo, machine, registry
from tests.support.ggufs import write_llama

TURNS, TOKENS = 9, 200
#: No model ends this early.
LONG = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


def measure() -> dict[str, Any]:
    """Free answers and those with a schema take turns; the result is the median of the ratios of a turn."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        registry.add(registry.Entry("small", demo.MODEL))
        registry.add(registry.Entry("large", _large_vocabulary(Path(folder))))
        rows = {"kvsplit-demo, 4096": _row("small"), "random weights, 262,144": _row("large")}
    return {
        "machine": f"{machine.cpu_name()}, {machine.physical_cores()} cores",
        "turns": TURNS,
        "tokens": TOKENS,
        "vocabularies": rows,
    }


def _row(name: str) -> dict[str, Any]:
    turns = []
    for turn in range(TURNS + 1):
        order = (None, LONG) if turn % 2 else (LONG, None)  # whoever is first finds other caches
        turns.append({schema is not None: _tokens_per_second(name, schema, turn) for schema in order})
    del turns[0]  # it loads the model, and makes the tokenizer
    ratios = sorted(turn[True] / turn[False] for turn in turns)
    return {
        "free": round(statistics.median(turn[False] for turn in turns), 1),
        "schema": round(statistics.median(turn[True] for turn in turns), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _tokens_per_second(name: str, schema: Any, seed: int) -> float:
    import llm

    response = llm.get_model(name).prompt("People:\n", schema=schema, seed=seed, max_tokens=TOKENS, stream=False)
    response.text()
    logged = response.response_json
    return logged["completion_tokens"] / logged["completion_seconds"]


def _large_vocabulary(folder: Path) -> Path:
    """A model of random weights with as many tokens as Gemma's."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = itertools.islice((f"Ġ{''.join(word)}" for word in itertools.product(letters, repeat=4)), 262_144 - 257)
    return write_llama(folder / "262144.gguf", n_embd=256, n_head=4, n_head_kv=4, n_ctx=2048, words=tuple(words))
