"""docs/evidence/chat.md out of chat.json."""

from __future__ import annotations

from typing import Any

COMMAND = "uv run --with transformers==5.24.0 python tools/benchmarks/chat.py --out docs/evidence"


def markdown(results: dict[str, Any]) -> str:
    """The page: one table, and what is behind each of its rows."""
    return "TODO"
