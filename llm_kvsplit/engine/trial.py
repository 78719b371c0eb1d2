"""One trial of a library, in a process of its own, since it may die of it: see ``builds/probe.py``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .. import demo
from ..builds import choice
from ..errors import KvsplitError
from ..kvtypes import CachePair
from .context import Context, ContextOptions
from .weights import LoadOptions, Weights, quantize


def run(trial: str) -> None:
    """Evaluate a few tokens with the bundled model as it is ("plain") or with q8_0 weights ("quantized")."""
    with tempfile.TemporaryDirectory() as folder:
        model = demo.MODEL
        if trial == "quantized":
            model = Path(folder) / "q8_0.gguf"
            quantize(demo.MODEL, model)
        weights = Weights(LoadOptions(model))
        context = Context(weights, ContextOptions(CachePair.from_bits(16, 16), 256))
        # More tokens than one, since products of a matrix with a vector take another path.
        context.evaluate(list(range(100, 140)))
        context.evaluate([7])


if __name__ == "__main__":
    try:
        run(sys.argv[1])
    except choice.Unusable as failure:
        sys.exit(failure.reason)
    except KvsplitError as failure:
        sys.exit(failure.message)
