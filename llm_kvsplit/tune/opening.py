"""A model opened to be tuned: what it weighs, what it can be stored in, and what was measured of it before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import fit, paths, registry
from ..bench import about, jobs, results
from ..bench import subject as subjects
from ..bench.subject import Subject
from ..engine import layer_types
from ..engine.context import ContextError
from ..engine.weights import Weights
from ..errors import KvsplitError
from ..kvtypes import Q8_0, CachePair, LayerMap
from . import recipe, runs, sides
from .prediction import Plan
from .search import Search

#: Tokens of a window: half of them are the context of the other half's predictions.
_N_CTX = 512


@dataclass(frozen=True)
class Opened:
    search: Search
    #: Tokens of a window.
    n_ctx: int
    #: Tokens of the context whose bytes are counted.
    cells: int


@contextmanager
def opened(subject: Subject, text: Path | None, threads: int) -> Iterator[Opened]:
    """Load the model, and find what was measured of it with this library on this text.

    Nothing is measured yet. Raises KvsplitError for a model that takes no map or does not fit in memory, and for a text
    that is too short.
    """
    trained = subject.header.n_ctx_train or _N_CTX
    n_ctx = min(_N_CTX, trained)
    entry = registry.get(subject.name) if subject.registered else None
    cells = (entry and entry.n_ctx) or trained
    with fit.simulation(subject.load_options()) as weights:
        windows = runs.windows(subjects.text_tokens(weights, subjects.read_text(text)), n_ctx)
        jobs.refuse_unless_side_by_side(weights, [], n_ctx, fit.device_memory()[0])
        _try_map(subject, weights, n_ctx)
        every_side = sides.of_model(weights, cells)
    if not every_side:
        raise KvsplitError(f"{subject.name} keeps no keys and values, so there is nothing to choose.")
    facts = about.describe(subject, text, threads, seed=0)
    with closing(Weights(subject.load_options())) as weights:
        types = sides.usable_types(weights, threads)
        kept = _kept(subject, facts, n_ctx)
        plan = Plan(subject.header.n_layer, tuple(every_side), types)
        yield Opened(Search(runs.Runs(weights, kept, windows, threads), plan), n_ctx, cells)


def _try_map(subject: Subject, weights: Weights, n_ctx: int) -> None:
    """Raise KvsplitError where llama.cpp refuses: it knows which models it cannot give a map."""
    try:
        fit.footprint(weights, LayerMap.of([CachePair(Q8_0, Q8_0)] * subject.header.n_layer), n_ctx)
    except (layer_types.Refused, ContextError) as error:
        raise KvsplitError(
            f"{subject.name} cannot be given types by layer: {error.cause.rstrip('.')}; see 'llm kvsplit compare'."
        ) from None


def _kept(subject: Subject, facts: dict[str, Any], n_ctx: int) -> results.Results:
    """What was measured of this model, whatever its name, with this library on this text. Raises KvsplitError."""
    parts = [facts["made_by"], facts["text"]["sha256"], facts["machine"]["cpu"], facts["backend"], facts["settings"]]
    key = json.dumps([recipe.content_sha256(subject.header), *parts, n_ctx], sort_keys=True)
    kept = results.open_folder(paths.cache_dir() / "tune" / hashlib.sha256(key.encode()).hexdigest()[:20], facts)
    kept.about = facts
    return kept
