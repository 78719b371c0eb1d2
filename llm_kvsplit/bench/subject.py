"""What is measured: a registered model or a GGUF file, and the text it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import demo, gguf, registry
from ..builds import choice
from ..errors import KvsplitError
from ..kvtypes import BITS, Cache, CachePair, LayerMap
from ..options import registered_map

if TYPE_CHECKING:
    from ..engine.weights import LoadOptions, Weights


@dataclass(frozen=True)
class Subject:
    """A model to measure. ``name`` is what the person calls it."""

    name: str
    path: Path
    #: Whether ``llm -m`` knows the name.
    registered: bool
    n_gpu_layers: int
    header: gguf.Gguf
    #: The one that it is registered with, if any.
    layer_map: LayerMap | None
    #: Other machines as it is registered with them, if any.
    rpc: str | None

    def load_options(self, servers: tuple[str, ...] = ()) -> LoadOptions:
        from ..engine.weights import LoadOptions

        return LoadOptions(self.path, self.n_gpu_layers, choice.extra_bufts(), servers=servers)


def named(model: str) -> Subject:
    """The model of that name, or the GGUF file. Raises KvsplitError for neither, and for a damaged file."""
    entry = registry.get(model)
    if not entry and not Path(model).exists():
        raise KvsplitError(f"{model} is neither a registered model nor a file: 'llm kvsplit models' lists the models.")
    path = entry.path if entry else Path(model)
    layers = -1 if entry is None or entry.n_gpu_layers is None else entry.n_gpu_layers
    layer_map = registered_map(entry) if entry else None
    name, rpc = (entry.name, entry.rpc) if entry else (path.stem, None)
    return Subject(name, path, entry is not None, layers, gguf.read(path), layer_map, rpc)


def parse_caches(text: str) -> list[Cache]:
    """ "8/4,K5V5,0-3:8/8,rest:8/4" as pairs and a layer map. A semicolon parts two maps that follow each other.

    Raises KvsplitError with what is allowed.
    """
    caches: list[Cache] = []
    for group in text.split(";"):
        for mapped, parts in groupby(group.split(","), lambda part: ":" in part):
            texts = list(parts)
            caches += [_layer_map(",".join(texts))] if mapped else map(_pair, texts)
    return list(dict.fromkeys(caches))


def _pair(text: str) -> CachePair:
    try:
        return CachePair.parse(text)
    except ValueError:
        raise KvsplitError(
            f"{text.strip()!r} is not a pair of cache bits: write key bits/value bits, such as 8/4, each one of "
            f"{', '.join(map(str, BITS))}."
        ) from None


def _layer_map(text: str) -> LayerMap:
    try:
        return LayerMap.parse(text)
    except ValueError as error:
        raise KvsplitError(f"{text.strip()!r} is no layer map: {error}.") from None


def refuse_unmeasurable(subject: Subject, pairs: Sequence[Cache]) -> None:
    """Raise KvsplitError for a model or a pair that cannot be measured."""
    if not subject.header.causal:
        raise KvsplitError(f"{subject.name} embeds text and writes none: there is nothing to measure.")
    for pair in pairs:
        if reason := gguf.refusal(subject.header, pair):
            raise KvsplitError(f"{pair} cannot be measured: {subject.name} {reason}.")


def read_text(file: Path | None) -> str:
    """The person's text, or the bundled held-out one. Raises KvsplitError for one that cannot be read."""
    try:
        return (file or demo.SMOKE_TEXT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KvsplitError(f"{file} cannot be read as text ({error}): give a UTF-8 text file.") from error


def text_tokens(weights: Weights, text: str) -> list[int]:
    """The text in tokens, as llama-perplexity splits it."""
    return weights.tokenize(text, add_special=True, parse_special=False)


def refuse_short_text(weights: Weights, file: Path | None, n_ctx: int, count: int) -> None:
    """Raise KvsplitError when the text has not ``count`` windows of ``n_ctx`` tokens."""
    from .quality import windows

    windows(text_tokens(weights, read_text(file)), n_ctx, count)


def common_order(subject: Subject, text: Path | None, threads: int) -> dict[str, Any]:
    """What the jobs of a bench have in common, see ``child``."""
    return {
        "load": asdict(subject.load_options()) | {"path": str(subject.path.resolve())},
        "text": str((text or demo.SMOKE_TEXT).resolve()),
        "threads": threads,
        "seed": 0,
    }
