"""Run jobs one after another, each kept as soon as it is done, with a bar and the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from . import child
from .jobs import Job
from .results import Results

#: Columns of the words beside the bar.
_WIDTH = 34


@dataclass(frozen=True)
class Progress:
    """A progress bar, called with the number of tokens that were just evaluated."""

    bar: Any

    def __call__(self, tokens: int) -> None:
        self.bar.update(tokens)

    def describe(self, words: str) -> None:
        """Show what is measured now. On a terminal alone, since elsewhere each change would be a line."""
        if sys.stderr.isatty():
            self.bar.label = _label(words)


def _label(words: str) -> str:
    return words.ljust(_WIDTH) if sys.stderr.isatty() else words


def run(
    results: Results, jobs: list[Job], measure: Callable[[dict[str, Any], Progress], dict[str, Any]] = child.run
) -> None:
    """Measure what is missing in ``results``. Ctrl-C leaves what is done; the same call goes on from there.

    Raises KvsplitError for a measurement that fails, click.Abort on Ctrl-C.
    """
    missing = [job for job in jobs if job.name not in results.runs]
    if len(missing) < len(jobs):
        click.echo(f"{len(jobs) - len(missing)} of {len(jobs)} measurements are there already.", err=True)
    if not missing:
        return
    total = sum(job.tokens for job in missing)
    try:
        with click.progressbar(length=total, label=_label(missing[0].words), file=sys.stderr, show_pos=False) as bar:
            for job in missing:
                bar.label = _label(job.words)
                finished = bar.pos + job.tokens
                results.add(job.name, measure(job.order, Progress(bar)))
                bar.update(finished - bar.pos)  # what was not counted exactly
    except KeyboardInterrupt:
        click.echo(f"\nStopped; {results.file} keeps what is done, and the same command goes on from there.", err=True)
        raise click.Abort() from None
