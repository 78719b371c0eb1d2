"""``llm kvsplit compare``: five pairs of cache bits side by side on the person's own model."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import fit, kvtypes, machine, paths
from ..bench import comparison, jobs, quality, summary
from ..bench import subject as subjects
from ..bench.quality import F16
from ..errors import KvsplitError
from ..kvtypes import USUAL, Cache, LayerMap
from .parameters import positive, text, threads

if TYPE_CHECKING:
    from ..bench.results import Results

#: Short enough for a minute on two cores with a model of 135 million parameters.
_N_CTX = 1024

_PAIRS = ",".join(f"{pair.k.bits}/{pair.v.bits}" for pair in USUAL if pair.quantized)


@click.command()
@click.argument("model")
@click.option(
    "--pairs",
    default=_PAIRS,
    help="What to compare with f16: pairs such as 8/5,5/5, and layer maps such as 0-3:8/8,rest:8/4.",
)
@text
@positive("--n-ctx", help="Tokens of context to measure at (default: 1024, less if the model was trained for less).")
@threads
def command(model: str, pairs: str, text: Path | None, n_ctx: int | None, threads: int | None) -> None:
    """Measure what each pair of cache bits costs MODEL and what it saves, against f16 on the same tokens.

    MODEL is a registered name or a GGUF file. After Ctrl-C the same command goes on where it stopped.
    """
    from ..bench import about, results, runner
    from ..engine.weights import Weights

    subject = subjects.named(model)
    n_ctx = min(_N_CTX, subject.header.n_ctx_train or _N_CTX) if n_ctx is None else n_ctx
    compared = list(dict.fromkeys([F16, *subjects.parse_caches(pairs)]))
    count = comparison.windows(n_ctx)
    if n_ctx < jobs.SHORTEST:
        raise KvsplitError(f"--n-ctx must be {jobs.SHORTEST} or more, not {n_ctx}.")
    subjects.refuse_unmeasurable(subject, compared)
    with fit.simulation(subject.load_options()) as weights:
        subjects.refuse_short_text(weights, text, n_ctx, count)
        jobs.refuse_unless_side_by_side(weights, compared, n_ctx, fit.device_memory()[0])
    threads = threads or machine.physical_cores()
    facts = about.describe(subject, text, threads, seed=0)
    # Kept only until the comparison is whole, so that Ctrl-C loses nothing and another call measures anew.
    key = hashlib.sha256(json.dumps([facts, n_ctx, pairs], sort_keys=True).encode()).hexdigest()[:20]
    folder = _folder_or_temporary(paths.cache_dir() / "compare" / key)
    kept = results.open_folder(folder, facts)
    weights = Weights(subject.load_options())
    try:
        tokens = subjects.text_tokens(weights, subjects.read_text(text))
        texts = quality.windows(tokens, n_ctx, count)
        with quality.caches(weights, compared, n_ctx, threads) as contexts:
            comparison.warm_up(contexts, tokens)
            runner.run(
                kept,
                comparison.jobs(compared, n_ctx),
                lambda order, progress: comparison.measure(contexts, texts[order["window"]], progress),
            )
    finally:
        weights.close()
    shutil.rmtree(folder, ignore_errors=True)
    _show(subject, comparison.combined(kept, compared, n_ctx), n_ctx)


def _folder_or_temporary(folder: Path) -> Path:
    """The folder, or a temporary one where it cannot be made: a cache is not needed, it saves time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="kvsplit-compare-"))


def _show(subject: subjects.Subject, measured: Results, n_ctx: int) -> None:
    click.echo(f"{summary.caption(measured)}; {n_ctx} tokens of context.\n")
    click.echo(summary.plain(summary.rows(measured, n_ctx)))
    places = measured.runs[f"{F16}/{n_ctx}/quality"]["tokens"]
    click.echo(
        f"\nSpeeds: a prompt of {n_ctx // 2} tokens, and {comparison.SINGLE} at the end of the context; median (smallest-largest)."
        f"\nQuality: {places} predictions against f16's, ± half a 95 % interval, KL divergence in nats. f16's own row is f16 "
        "nudged\nby a ten-thousandth: what the model's roundings alone do to any change. Damage is the mean KL above that."
    )
    click.echo(f"\n{summary.advice(measured, n_ctx)}")
    best = summary.recommended(measured, n_ctx)["pair"]
    if best != str(F16):
        click.echo(f"\n    {_how_to_set(subject, kvtypes.parse(best))}")


#: The options that 'add' takes for the cache.
_ADDED = {"kv_key_bits", "kv_value_bits", "kv_layers"}


def _how_to_set(subject: subjects.Subject, cache: Cache) -> str:
    options = {"kv_layers": str(cache)} if isinstance(cache, LayerMap) else cache.options()
    if subject.registered:
        return " && ".join(f"llm models options set {subject.name} {name} {value}" for name, value in options.items())
    if not options.keys() <= _ADDED:
        options = {"kv_layers": f"rest:{cache}"}
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    return f"llm kvsplit add {subject.path} {words}"
