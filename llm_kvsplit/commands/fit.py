"""``llm kvsplit fit``: how much context fits in how much memory, and what must be given up for more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from .. import fit, gguf
from ..bench import subject as subjects
from ..errors import KvsplitError
from ..kvtypes import LADDER, Cache, CachePair, label
from ..options import layer_map, rpc_servers
from ..units import parse_size, size
from .add import require_language_model
from .parameters import positive

if TYPE_CHECKING:
    from ..engine.weights import Weights


@click.command()
@click.argument("model")
@click.option("--memory", help="Such as 16GB; without it, what this machine (or its GPU) has free.")
@positive("--n-ctx", help="The context you want: shows what must be given up for it.")
@click.option("--kv-layers", help="Also a layer map, such as 0-3:8/8,rest:8/4 (default: the registered one, if any).")
@click.option("--rpc", help="With these machines, as host:port after commas (default: the registered ones, if any).")
def command(model: str, memory: str | None, n_ctx: int | None, kv_layers: str | None, rpc: str | None) -> None:
    """Show how much context of MODEL fits in memory with each pair of cache bits, and with a layer map.

    MODEL is a registered name or a GGUF file. Nothing is loaded or measured.
    """
    subject = subjects.named(model)
    require_language_model(subject.header)
    endpoints = rpc_servers(subject.rpc if rpc is None else rpc)
    budget, where = (parse_size(memory), "--memory") if memory else fit.device_memory(endpoints)
    if budget <= 0:
        raise KvsplitError("--memory must be more than nothing: write it like 16GB.")
    from ..engine import library

    caches: list[Cache] = [
        pair for pair in LADDER if not gguf.refusal(subject.header, pair) and not library.lacking(pair)
    ]
    mapped = layer_map(kv_layers, LADDER[0]) if kv_layers is not None else subject.layer_map
    if mapped:
        if reason := gguf.refusal(subject.header, mapped):
            raise KvsplitError(f"{subject.name} {reason}.")
        caches.append(mapped)
    load = subject.load_options(endpoints)
    if endpoints and load.n_gpu_layers < 0:
        load = replace(load, n_gpu_layers=fit.layers_on_servers(subject.path, endpoints, caches[0], n_ctx))
    with fit.simulation(load) as weights:
        click.echo(f"{subject.name}: {size(weights.size)} of weights, {size(budget)} of memory ({where}).")
        if weights.size >= budget:
            raise KvsplitError(
                f"The weights of {subject.name} alone take {size(weights.size)}, and there are {size(budget)}: choose a "
                "smaller quantization of the model."
            )
        if n_ctx is None:
            _print_largest(weights, caches, budget)
        else:
            _print_at(weights, caches, budget, n_ctx)
        if endpoints:
            _print_spread(weights, endpoints)
    if mapped:
        click.echo(f"map is {mapped}.")
    click.echo(
        "Cache and buffers as llama.cpp says it would allocate them (it was asked, without allocating); weights are the "
        "sum of the file's tensors; the process itself takes about 100 MiB more. Nothing was measured."
    )


def _print_largest(weights: Weights, caches: list[Cache], budget: int) -> None:
    click.echo(f"\n  {'':6}{'context that fits':>20}{'KV cache':>14}{'buffers':>14}{'in all':>14}")
    for cache in caches:
        footprint = fit.largest(weights, cache, budget)
        if footprint is None:
            click.echo(f"  {label(cache):6}{'none':>20}")
            continue
        # The cache is padded to whole blocks of cells; a person cannot use more than the model was trained for.
        whole = footprint.n_ctx >= weights.n_ctx_train
        tokens = f"{weights.n_ctx_train} (all)" if whole else str(footprint.n_ctx)
        click.echo(_row(cache, tokens, footprint))
    click.echo(f"\nIt was trained for {weights.n_ctx_train} tokens.")


def _print_at(weights: Weights, caches: list[Cache], budget: int, n_ctx: int) -> None:
    if n_ctx > weights.n_ctx_train:
        click.echo(
            f"Warning: it was trained for {weights.n_ctx_train} tokens; beyond that its answers get worse.", err=True
        )
    click.echo(f"\n  {'':6}{f'{n_ctx} tokens':>20}{'KV cache':>14}{'buffers':>14}{'in all':>14}")
    footprints = [fit.footprint(weights, cache, n_ctx) for cache in caches]
    for each in footprints:
        lacking = each.total - budget
        click.echo(_row(each.cache, "fits" if lacking <= 0 else f"lacks {size(lacking)}", each))
    fitting = [each.cache for each in footprints if each.total <= budget]
    pair = next((cache for cache in fitting if isinstance(cache, CachePair)), None)
    if pair and pair == caches[0]:
        click.echo("\nNothing must be given up: the f16 cache fits.")
    elif pair:
        click.echo(f"\nThe most precise pair that fits is {pair}: {fit.options_text(pair)}.")
    elif not fitting:
        smallest = min(footprints, key=lambda each: each.total)
        most = fit.largest(weights, smallest.cache, budget)
        fits = f"{most.n_ctx} tokens fit with {smallest.cache}" if most else "no context fits"
        click.echo(f"\nNo pair fits: {fits}, or find {size(smallest.total - budget)} more memory.")


def _print_spread(weights: Weights, endpoints: tuple[str, ...]) -> None:
    """Where llama.cpp would put which layers, by the memory that each machine has free."""
    from ..engine import servers

    click.echo("\nEach layer lies whole on one machine, with its cache:")
    machines = {device.name: device for device in servers.devices(endpoints)}
    layers: dict[str, list[int]] = {}
    for layer, name in sorted(fit.layer_devices(weights).items()):
        layers.setdefault(name, []).append(layer)
    for name in [*machines, *(name for name in layers if name not in machines)]:
        held = layers.get(name, [])
        which = f"layers {held[0]} to {held[-1]}" if held else "no layer"
        device = machines.get(name)
        where = f"{device.endpoint} ({size(device.free)} free)" if device else f"this machine ({name})"
        click.echo(f"  {where}: {which}")


def _row(cache: Cache, first: str, footprint: fit.Footprint) -> str:
    return (
        f"  {label(cache):6}{first:>20}{size(footprint.kv):>14}{size(footprint.buffers):>14}{size(footprint.total):>14}"
    )
