"""``llm kvsplit watch``: memory over time, the same prompt under f16 and K8V4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import fit, machine
from ..bench import jobs, summary
from ..bench import subject as subjects
from ..errors import KvsplitError
from ..kvtypes import Cache
from ..units import size
from .parameters import positive, text, threads

if TYPE_CHECKING:
    from rich.live import Live

    from ..bench.memory import Sample

_KINDS = (".gif", ".svg", ".png")
_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH = 44


@click.command()
@click.argument("model")
@click.option("--pairs", default="16/16,8/4", help="Pairs such as 8/4, and layer maps, to watch one after another.")
@positive("--n-ctx", help="Tokens of context to fill (default: 8192, less if the model was trained for less).")
@text
@click.option("--out", multiple=True, type=click.Path(path_type=Path), help="Save as .gif (moving), .svg or .png.")
@threads
def command(
    model: str, pairs: str, n_ctx: int | None, text: Path | None, out: tuple[Path, ...], threads: int | None
) -> None:
    """Fill the context of MODEL with the same text under each cache, and draw the memory of the process meanwhile.

    MODEL is a registered name or a GGUF file.
    """
    from ..bench import about, memory

    subject = subjects.named(model)
    watched = subjects.parse_caches(pairs)
    n_ctx = min(8192, subject.header.n_ctx_train or 8192) if n_ctx is None else n_ctx
    if n_ctx < jobs.SHORTEST:
        raise KvsplitError(f"--n-ctx must be {jobs.SHORTEST} or more, not {n_ctx}.")
    for file in out:
        if file.suffix not in _KINDS:
            raise KvsplitError(
                f"{file} cannot be drawn: its name must end in {', '.join(_KINDS[:-1])} or {_KINDS[-1]}."
            )
    subjects.refuse_unmeasurable(subject, watched)
    subjects.read_text(text)
    with fit.simulation(subject.load_options()) as weights:
        jobs.refuse_unless_it_fits(weights, watched, n_ctx, fit.device_memory()[0])
    live = _live()
    if out:
        from ..plots import style

        style.load()
    threads = threads or machine.physical_cores()
    common = subjects.common_order(subject, text, threads)
    runs: dict[str, tuple[int, list[memory.Sample]]] = {}
    with live() as screen:
        for pair in watched:
            samples: list[memory.Sample] = []
            (job,) = jobs.speeds([pair], [n_ctx], 1, common)

            def received(sample: memory.Sample, pair: Cache = pair, samples: list[memory.Sample] = samples) -> None:
                samples.append(sample)
                screen.update(_chart({**{name: done for name, (_, done) in runs.items()}, str(pair): samples}, n_ctx))

            result, _ = memory.watch(job.order, received)
            runs[str(pair)] = (result["kv_bytes"], samples)
    click.echo()
    for name, (kv_bytes, samples) in runs.items():
        peak = max(sample.bytes for sample in samples)
        click.echo(
            f"{name:6} cache {size(kv_bytes):>11}, process at most {size(peak):>11}, {samples[-1].seconds:.1f} s"
        )
    facts = about.describe(subject, text, threads, seed=0)
    for file in out:
        from ..bench.results import Results
        from ..plots import watch

        watch.save(runs, f"{summary.caption(Results(file, facts))}; {n_ctx} tokens", file)
        click.echo(file)


def _live() -> Callable[[], Live]:
    try:
        from rich.live import Live
    except ImportError as error:
        raise KvsplitError(
            "Drawing in the terminal needs rich, which is not installed: run 'llm install llm-kvsplit[plot]'."
        ) from error
    return lambda: Live(refresh_per_second=10, transient=False)


def _chart(runs: dict[str, list[Sample]], n_ctx: int) -> str:
    """A line of blocks for each cache: memory over the tokens of the prompt, all on the same scale."""
    runs = {pair: [sample for sample in samples if sample.tokens] or samples[-1:] for pair, samples in runs.items()}
    bottom = 0.97 * min(samples[0].bytes for samples in runs.values())
    top = max(sample.bytes for samples in runs.values() for sample in samples)
    lines = []
    for pair, samples in runs.items():
        columns = [0] * _WIDTH
        for sample in samples:
            column = min(_WIDTH - 1, sample.tokens * _WIDTH // n_ctx)
            columns[column] = max(columns[column], sample.bytes)
        last = samples[-1].tokens * _WIDTH // n_ctx
        bytes_before, drawn = 0, ""
        for column, held in enumerate(columns):
            bytes_before = held or bytes_before
            level = (
                1 + round((len(_BLOCKS) - 2) * max(0, bytes_before - bottom) / (top - bottom)) if column <= last else 0
            )
            drawn += _BLOCKS[level]
        lines.append(f"{pair:5} {drawn} {size(bytes_before):>11}  {samples[-1].tokens} tokens")
    return "\n".join(lines)
