"""What each model is served with, and whether all of them fit into memory together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import fit, gguf, registry
from ..errors import KvsplitError
from ..kvtypes import Cache, CachePair, label
from ..options import Options, effective_settings, rpc_servers
from ..registry import Entry
from ..units import size

#: Tokens for each user where neither the model's registration nor the command says how many.
USUAL = 8192


@dataclass(frozen=True)
class Served:
    """A model under one name, with one cache that all its users share."""

    name: str
    entry: Entry
    cache: Cache
    #: The same with the types that this library takes for its bits.
    stored: Cache
    users: int
    #: Tokens for each user. The cache has as many for all, so one may take more while others take less.
    n_ctx: int
    footprint: fit.Footprint

    @property
    def total(self) -> int:
        """Tokens that the cache holds."""
        return self.users * self.n_ctx


def served(models: Sequence[str], caches: Sequence[Cache], users: int, n_ctx: int | None) -> list[Served]:
    """The models, each with its registered cache, or once with each of ``caches``.

    ``models`` are registered names or GGUF files. Raises KvsplitError for one that cannot be served.
    """
    entries = list(dict.fromkeys(map(_entry, models)))
    planned = []
    for entry in entries:
        for cache in caches or [effective_settings(Options(), entry).cache]:
            name = f"{entry.name}-{label(cache)}" if len(caches) > 1 else entry.name
            planned.append(_plan(entry, cache, name, users, n_ctx))
    names = [each.name for each in planned]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise KvsplitError(f"Two of the models would be called {double}: register one of them under another name.")
    return planned


def memory_bytes(planned: Sequence[Served]) -> int:
    """What all may take together, with that of other machines which hold layers of one. Raises KvsplitError."""
    from ..engine import servers

    endpoints = dict.fromkeys(server for each in planned for server in rpc_servers(each.entry.rpc))
    here = max(fit.memory_bytes(), fit.device_memory()[0])  # what a GPU lacks may lie in the system's
    return here + servers.free_bytes(tuple(endpoints))


def refuse_unless_they_fit(planned: Sequence[Served], memory: int) -> None:
    """Raise KvsplitError, with the numbers and what would fit, when all together take more than ``memory`` bytes."""
    total = sum(each.footprint.total for each in planned)
    if total <= memory:
        return
    weights = sum(each.footprint.weights for each in planned)
    if weights >= memory:
        fewer = "serve fewer of them" if len(planned) > 1 else "use a smaller quantization of the model"
        raise KvsplitError(f"The weights alone take {size(weights)}, and there are {size(memory)} of memory: {fewer}.")
    names = " and ".join(f"{each.name} ({each.cache}, {each.users} × {each.n_ctx} tokens)" for each in planned)
    raise KvsplitError(
        f"{names} take {size(total)}, and there are {size(memory)} of memory: {_fitting(planned, memory)}."
    )


def _entry(model: str) -> Entry:
    entry = registry.get(model)
    if entry is None and not Path(model).is_file():
        raise KvsplitError(f"{model} is neither a registered model nor a file: 'llm kvsplit models' lists the models.")
    return entry or Entry(Path(model).stem, Path(model))


def _plan(entry: Entry, cache: Cache, name: str, users: int, n_ctx: int | None) -> Served:
    from ..engine import library

    header = gguf.read(entry.path)
    if what := gguf.other_kind(header):
        raise KvsplitError(f"{entry.name} cannot be served: it is {what}.")
    if reason := gguf.refusal(header, cache):
        raise KvsplitError(f"{entry.name} cannot be served with a {cache} cache: it {reason}.")
    if lacking := library.lacking(cache):
        raise KvsplitError(f"{entry.name} cannot be served with a {cache} cache: this library has no {lacking}.")
    wanted = n_ctx or entry.n_ctx or min(USUAL, header.n_ctx_train or USUAL)
    if header.n_ctx_train and wanted > header.n_ctx_train:
        raise KvsplitError(
            f"{entry.name} was trained for {header.n_ctx_train} tokens, and a server gives no user more: "
            f"write --n-ctx {header.n_ctx_train} or less, not {wanted}."
        )
    nothing = fit.Footprint(cache, wanted, 0, 0, 0)
    return _with_footprint(Served(name, entry, cache, library.stored(cache), users, wanted, nothing))


def _with_footprint(planned: Served) -> Served:
    from ..engine.weights import LoadOptions

    layers = -1 if planned.entry.n_gpu_layers is None else planned.entry.n_gpu_layers
    with fit.simulation(LoadOptions(planned.entry.path, layers)) as weights:
        return replace(planned, footprint=fit.footprint(weights, planned.cache, planned.total, planned.users))


def _fitting(planned: Sequence[Served], memory: int) -> str:
    """What to write instead."""
    for pair in fit.SMALLER:
        smaller = [_with_footprint(replace(each, cache=pair)) for each in planned if not _refused(each, pair)]
        saved = all(new.footprint.kv < old.footprint.kv for new, old in zip(smaller, planned))
        if len(smaller) == len(planned) and saved and sum(each.footprint.total for each in smaller) <= memory:
            return f"--kv {pair.k}/{pair.v} would fit"
    n_ctx = min(each.n_ctx for each in planned) // 2
    while n_ctx >= 256:
        if sum(_with_footprint(replace(each, n_ctx=n_ctx)).footprint.total for each in planned) <= memory:
            return f"--n-ctx {n_ctx} would fit"
        n_ctx //= 2
    return "serve fewer users or models, or close other programs"


def _refused(planned: Served, pair: CachePair) -> bool:
    return bool(gguf.refusal(gguf.read(planned.entry.path), pair))
