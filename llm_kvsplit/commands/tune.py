"""``llm kvsplit tune``: the types of keys and values for each layer, by measurement."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import machine, registry
from ..bench import subject as subjects
from ..builds import choice
from ..errors import KvsplitError
from ..kvtypes import LayerMap
from ..units import size
from .parameters import text, threads

if TYPE_CHECKING:
    from ..tune.search import Figures, Outcome


@click.command()
@click.argument("model")
@click.option(
    "--budget", help="How large: 41% of the f16 cache, 6.5bits a value, or 72MiB (default: as large as K8V4)."
)
@click.option("--limit", type=float, help="Instead, the smallest with surely at most so much damage, in nats.")
@text
@click.option("--export", type=click.Path(path_type=Path), help="Write the map with its figures to a file.")
@click.option(
    "--import", "taken", type=click.Path(path_type=Path), help="Measure nothing: take the map of such a file."
)
@click.option("--dry-run", is_flag=True, help="Show the map, and leave the model as it is.")
@threads
def command(
    model: str,
    budget: str | None,
    limit: float | None,
    text: Path | None,
    export: Path | None,
    taken: Path | None,
    dry_run: bool,
    threads: int | None,
) -> None:
    """Choose the types of keys and values for each layer of MODEL, and store them with it.

    MODEL is a registered name or a GGUF file. What was measured is kept: after Ctrl-C the same command goes on where it
    stopped, and another budget measures only what it needs besides.
    """
    subject = subjects.named(model)
    _refuse(subject)
    if taken:
        if budget or limit is not None or text or export:
            raise KvsplitError("--import measures nothing: leave out --budget, --limit, --text and --export.")
        layer_map = _imported(subject, taken)
    else:
        layer_map = _tuned(subject, budget, limit, text, export, threads or machine.physical_cores())
    click.echo(f"\n    -o kv_layers {layer_map}\n")
    _store(subject, layer_map, dry_run)


def _refuse(subject: subjects.Subject) -> None:
    """Raise KvsplitError for a model or a library that cannot take a map."""
    from ..engine import layer_types

    name, header = subject.name, subject.header
    subjects.refuse_unmeasurable(subject, [])
    if header.n_layer < 2:
        raise KvsplitError(f"{name} has one layer, so there is nothing to choose by layer: see 'llm kvsplit compare'.")
    if header.mla:
        raise KvsplitError(
            f"{name} has latent attention, whose keys and values must have the same type: see 'llm kvsplit compare'."
        )
    if subject.registered and str(_options_of_llm(name).get("flash_attn")).lower() in ("false", "0"):
        raise KvsplitError(
            f"llm's own options turn flash attention off for {name}, and quantized values need it: run 'llm models options clear "
            f"{name} flash_attn' first."
        )
    if not layer_types.supported():
        library_name = choice.describe(choice.current())
        raise KvsplitError(
            f"{library_name} cannot give layers types of their own ({layer_types.FEATURE} of the patch series): get a build "
            "that can with 'llm kvsplit backend install'."
        )


def _imported(subject: subjects.Subject, file: Path) -> LayerMap:
    from ..engine import library
    from ..tune import recipe

    layer_map = recipe.map_for(recipe.read(file), file, subject.header, subject.name)
    if names := library.lacking(layer_map):
        raise KvsplitError(
            f"The map in {file} cannot be used: this library has no {names}. Get a build of the patch series with 'llm kvsplit "
            "backend install', or tune the model here."
        )
    return layer_map


def _tuned(
    subject: subjects.Subject,
    budget: str | None,
    limit: float | None,
    text: Path | None,
    export: Path | None,
    threads: int,
) -> LayerMap:
    from ..bench import summary
    from ..tune import goal, opening, recipe

    with opening.opened(subject, text, threads) as opened:
        plan, kept = opened.search.plan, opened.search.runs.results
        asked = goal.of(budget, limit, plan.sides, plan.types)
        if kept.runs:
            click.echo(f"{len(kept.runs)} measurements are there already.", err=True)
        outcome = opened.search.outcome(asked)
    if export:
        recipe.write(export, subject.header, outcome, kept.about)
    click.echo(f"{summary.caption(kept)}; windows of {opened.n_ctx} tokens.\n")
    _show(outcome, opened.cells)
    return outcome.layer_map


def _show(outcome: Outcome, n_cells: int) -> None:
    from ..bench import summary

    head = (
        f"cache of {n_cells} tokens",
        "bytes",
        "bits",
        "of f16",
        "damage: predicted",
        "measured",
        "held out",
        "99.9 % KL",
    )
    rows = [_row(each, outcome) for each in (outcome.tuned, *outcome.pairs)]
    click.echo(summary.plain([head, *rows]))
    click.echo(
        f"\nThe map was chosen for {outcome.goal.text}. Damage is in nats, ± half a 95 % interval, as in 'llm kvsplit compare'; "
        "the map was\nchosen on windows of the text's first half, and those held out are of its second half."
    )


def _row(figures: Figures, outcome: Outcome) -> tuple[str, ...]:
    from ..bench import summary

    share = figures.bytes / outcome.f16_bytes
    return (
        "tuned" if figures is outcome.tuned else str(figures.cache),
        size(figures.bytes),
        f"{16 * share:.2f}",
        f"{share:.1%}",
        f"{figures.predicted:.5f}",
        summary.plus_minus(figures.chosen),
        summary.plus_minus(figures.held),
        f"{figures.kl_999[0]:.3f} ({figures.kl_999[1]:.3f}-{figures.kl_999[2]:.3f})",
    )


def _store(subject: subjects.Subject, layer_map: LayerMap, dry_run: bool) -> None:
    name = subject.name
    if dry_run:
        click.echo("Nothing was stored.")
    elif not subject.registered:
        click.echo(f"Register it with: llm kvsplit add {shlex.quote(str(subject.path))} --kv-layers {layer_map}")
    elif name == registry.DEMO:
        click.echo(f"Keep it with: llm models options set {name} kv_layers {layer_map}")
    else:
        registry.set_layers(name, str(layer_map))
        click.echo(f"Stored: llm -m {name} uses it from now on.")
        _warn_of_options(name)


def _warn_of_options(name: str) -> None:
    """What llm keeps as options goes before what a model is registered with."""
    said = sorted(key for key in _options_of_llm(name) if key.startswith("kv_"))
    if said:
        click.echo(
            f"Note: llm's own options for {name} say {', '.join(said)}, and go before it: 'llm models options clear {name}' "
            "removes them.",
            err=True,
        )


def _options_of_llm(name: str) -> dict[str, Any]:
    from llm.cli import get_model_options

    return get_model_options(name)
