"""``llm kvsplit bench``: every pair of cache bits at several lengths, into a folder of results."""

from __future__ import annotations

from pathlib import Path

import click

from .. import fit, machine
from ..bench import jobs
from ..bench import subject as subjects
from ..bench.quality import F16
from ..errors import KvsplitError
from ..kvtypes import USUAL, Cache
from .parameters import positive, text, threads

_PAIRS = ", ".join(map(str, USUAL))


@click.command()
@click.argument("model")
@click.option(
    "--config", help=f"Only these pairs or layer maps, such as f16,8/5 or 0-3:8/8,rest:8/4 (default: {_PAIRS})."
)
@click.option("--seq-len", help="Only these lengths in tokens, such as 4096 or 128,2048 (default: 128 to 8192).")
@positive("--depth", help="Also lengths up to this one, doubling from 8192, as far as memory allows.")
@click.option("--layers", is_flag=True, help="Also each layer's keys and values alone, and pictures of attention.")
@click.option("--speed-only", is_flag=True, help="Only sizes and speeds, such as those of another library.")
@positive("--repeats", default=3, show_default=True, help="Runs that a speed is the median of.")
@text
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results (default: kvsplit-MODEL).")
@threads
def command(
    model: str,
    config: str | None,
    seq_len: str | None,
    depth: int | None,
    layers: bool,
    speed_only: bool,
    repeats: int,
    text: Path | None,
    out: Path | None,
    threads: int | None,
) -> None:
    """Measure memory, speed, perplexity, KL divergence and retrieval of MODEL, and write them to a folder.

    MODEL is a registered name or a GGUF file. Each measurement is kept as it is made: after Ctrl-C, and with other
    pairs or lengths, the same folder takes up what is missing.
    """
    from ..bench import about, results, runner, summary

    subject = subjects.named(model)
    pairs: list[Cache] = subjects.parse_caches(config) if config else list(USUAL)
    lengths = _lengths(seq_len) if seq_len else jobs.lengths(depth)
    fitting = _that_fit(subject, pairs, lengths, text, strict=bool(seq_len))
    lengths = sorted({n for _, n in fitting})
    threads = threads or machine.physical_cores()
    facts = about.describe(subject, text, threads, seed=0)
    kept = results.open_folder(out or Path(f"kvsplit-{subject.name}"), facts)
    common = subjects.common_order(subject, text, threads)
    if speed_only:
        every_job = jobs.speeds(pairs, lengths, repeats, common)
    else:
        every_job = jobs.planned(subject, pairs, lengths, repeats, common, layers=layers)
    to_do = [
        job
        for job in every_job
        if job.name in ("layers", "heads") or (job.order["pair"], job.order["n_ctx"]) in fitting
    ]
    try:
        runner.run(kept, to_do)
    finally:
        if kept.runs:
            results.write_csv(kept, kept.file.with_name("results.csv"))
            results.write_whole(kept.file.with_name("summary.md"), summary.page(kept))
    click.echo(summary.plain(summary.rows(kept, max(n for n in kept.lengths() if n in lengths))))
    click.echo(f"\nAll of it is in {kept.file.parent}: see summary.md, or 'llm kvsplit plot {kept.file.parent}'.")


def _lengths(text: str) -> list[int]:
    try:
        lengths = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise KvsplitError(f"--seq-len {text} is not a list of lengths: write it like 128,2048.") from None
    if lengths[0] < jobs.SHORTEST:
        raise KvsplitError(f"--seq-len must be {jobs.SHORTEST} or more, not {lengths[0]}.")
    return lengths


def _that_fit(
    subject: subjects.Subject, pairs: list[Cache], lengths: list[int], text: Path | None, *, strict: bool
) -> set[tuple[str, int]]:
    """The cells that fit in memory: all of them if ``strict``, else those that do not are left out, and named."""
    memory = fit.device_memory()[0]
    fitting: set[tuple[str, int]] = set()
    reasons = []
    subjects.refuse_unmeasurable(subject, pairs)
    with fit.simulation(subject.load_options()) as weights:
        for n_ctx in lengths:
            if n_ctx <= weights.n_ctx_train:
                subjects.refuse_short_text(weights, text, n_ctx, jobs.windows(n_ctx))
            # The predictions of f16, nudged, are wanted even if f16 is not: what damage is counts from there.
            for pair in dict.fromkeys([*pairs, F16]):
                reason = jobs.too_large(weights, pair, n_ctx, memory)
                if not reason:
                    fitting.add((str(pair), n_ctx))
                elif pair not in pairs:
                    reasons.append(f"the damage of the others at {n_ctx} tokens, since {reason}")
                elif strict:
                    raise jobs.too_large_error(reason)
                else:
                    reasons.append(reason)
    if not fitting:
        raise KvsplitError(f"{reasons[0]}: see 'llm kvsplit fit', or choose a smaller quantization of the model.")
    for reason in reasons:
        click.echo(f"Left out: {reason}.", err=True)
    return fitting
