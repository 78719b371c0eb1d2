"""The library for a first question: downloaded where a release has one, else compiled here, once.

llama-cpp-python may be installed without llama.cpp's library (``LLAMA_BUILD=OFF``), which takes seconds. The library then
comes from the patch series, and the companion compiles it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .. import companion
from ..errors import KvsplitError
from . import download

_STEP = re.compile(r"\[(\d+)/(\d+)\] ")
#: Fewer steps than this are cmake's own, before the compiler's.
_FEW_STEPS = 10


def make() -> None:
    """Download or compile a build. All messages go to stderr.

    Raises KvsplitError with both reasons where neither can be done, click.Abort on Ctrl-C.
    """
    try:
        download.install_tried()
    except download.NothingFits as reason:
        try:
            compile_series()
        except click.ClickException as failure:
            raise KvsplitError(f"{reason.message} Compiling one fails, too: {failure.message}") from failure


def compile_series(*, cuda: bool = False, vulkan: bool = False) -> Path:
    """Compile the patch series, with a progress bar; the build's folder.

    Raises click.ClickException where it cannot be compiled, click.Abort on Ctrl-C.
    """
    return with_progress(companion.function("compile"), cuda=cuda, vulkan=vulkan)


def with_progress(compiler: Callable[..., Path], *arguments: Any, **options: Any) -> Path:
    """Call a function of the companion that compiles, with a progress bar; it takes an echo after its arguments.

    Raises what it raises, and click.Abort on Ctrl-C.
    """
    try:
        with _progress() as echo:
            return compiler(*arguments, echo, **options)
    except KeyboardInterrupt:
        click.echo("\nStopped: the same command goes on from there.", err=True)
        raise click.Abort() from None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that takes the compiler's lines: its steps become a bar with the time left, other lines are shown."""
    bar = click.progressbar(length=1, label="Compiling", file=sys.stderr, show_pos=True)
    tenths = -1

    def echo(line: str) -> None:
        nonlocal tenths
        step = _STEP.match(line)
        if not step:
            click.echo(line, err=True)
            return
        done, total = int(step[1]), int(step[2])
        if total < _FEW_STEPS:
            return
        bar.length = total
        if sys.stderr.isatty():
            bar.update(max(0, done - bar.pos))
        elif 10 * done // total > tenths:  # piped: ten lines, not one a step
            click.echo(f"{100 * done // total} % compiled", err=True)
        tenths = 10 * done // total

    try:
        yield echo
    finally:
        if bar.pos:
            bar.render_finish()
