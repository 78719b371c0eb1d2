"""Run jobs one after another, each kept as soon as it is done, with a bar and the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from . import cell
from .grid import Job
from .results import Results


def run(results: Results, jobs: list[Job], measure: Callable[..., dict[str, Any]] = cell.run) -> None:
    """Measure what is missing in ``results``. Ctrl-C leaves what is done; the same call goes on from there.

    Raises KvsplitError for a measurement that fails, click.Abort on Ctrl-C.
    """
    missing = [job for job in jobs if job.name not in results.runs]
    if len(missing) < len(jobs):
        click.echo(f"{len(jobs) - len(missing)} of {len(jobs)} measurements are there already.", err=True)
    if not missing:
        return
    label = max((job.name for job in missing), key=len)
    try:
        with click.progressbar(
            length=sum(job.tokens for job in missing), label=label, file=click.get_text_stream("stderr"), show_pos=False
        ) as bar:
            for job in missing:
                bar.label = job.name.ljust(len(label))
                finished = bar.pos + job.tokens
                results.add(job.name, measure(job.order, bar.update))
                bar.update(finished - bar.pos)  # what was not counted exactly
    except KeyboardInterrupt:
        click.echo(f"\nStopped; {results.file} keeps what is done, and the same command goes on from there.", err=True)
        raise click.Abort() from None
