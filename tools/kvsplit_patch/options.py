"""The options that several commands share: what to build, and how progress is shown."""

import functools
import sys
from collections.abc import Sequence

import click

from .errors import PatchError


def target(command):
    """``[TAG|SHA|VERSION]``, the commit to replay the series onto; the base when left out."""
    return click.argument("target", required=False, metavar="[TAG|SHA|VERSION]")(command)


def flags(command):
    """``--cuda`` and ``--vulkan`` as one argument ``flags``."""

    @click.option("--cuda", is_flag=True, help="Also build the CUDA backend.")
    @click.option("--vulkan", is_flag=True, help="Also build the Vulkan backend.")
    @functools.wraps(command)
    def with_flags(*args, cuda, vulkan, **kwargs):
        from . import cmake

        return command(*args, flags=cmake.flags(cuda=cuda, vulkan=vulkan), **kwargs)

    return with_flags


def end_with(problems: Sequence[str], sentence: str) -> None:
    """Print the problems, if there are any, and end the command with ``sentence``: raises PatchError."""
    for problem in problems:
        click.echo(problem)
    if problems:
        raise PatchError(sentence)


def echo(line: str) -> None:
    """Progress goes to stderr: ninja's steps over one another on a terminal, and only now and then to a file."""
    count, _, total = line.partition(" ")[0].strip("[]").partition("/")
    if not (count.isdigit() and total.isdigit()):
        click.echo(line, err=True)
    elif sys.stderr.isatty():
        click.echo(f"\r\x1b[2K{line[:100]}", err=True, nl=count == total)
    elif int(count) % max(1, int(total) // 10) == 0 or count == total:
        click.echo(line, err=True)
