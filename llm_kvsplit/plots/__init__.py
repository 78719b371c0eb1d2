"""Pictures of a bench. Each is drawn from what the results hold, and is None where they hold nothing of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import layers, memory, quality, speed, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: File name -> what draws it: results -> figure or None.
FIGURES: dict[str, Callable[..., Figure | None]] = {
    "summary": summary.draw,
    "kv-memory": memory.by_context,
    "memory-quality": quality.pareto,
    "perplexity": quality.perplexity,
    "kl-divergence": quality.divergence,
    "keys-values": quality.sides,
    "speed": speed.draw,
    "needles": quality.needles,
    "layers": layers.heat_map,
    "attention": layers.attention,
}

#: Those that take a second argument: other results, or None, to draw faintly behind.
DRAWN_BESIDE = ("summary", "speed")
