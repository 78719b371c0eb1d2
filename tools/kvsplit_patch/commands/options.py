"""The options that several commands share: what to build, and how a command ends."""

import functools
from collections.abc import Sequence

import click

from ..errors import PatchError


def target(command):
    """``[TAG|SHA|VERSION]``, the commit to replay the series onto; the base when left out."""
    return click.argument("target", required=False, metavar="[TAG|SHA|VERSION]")(command)


def upstream(command):
    """``--upstream`` as the argument ``url``: another remote than the lock's, this once."""
    return click.option("--upstream", "url", metavar="URL", help="Fetch from there, not from lock.json's remote.")(
        command
    )


def flags(command):
    """``--cuda`` and ``--vulkan`` as one argument ``flags``."""

    @click.option("--cuda", is_flag=True, help="Also build the CUDA backend.")
    @click.option("--vulkan", is_flag=True, help="Also build the Vulkan backend.")
    @functools.wraps(command)
    def with_flags(*args, cuda, vulkan, **kwargs):
        from ..building import cmake

        return command(*args, flags=cmake.flags(cuda=cuda, vulkan=vulkan), **kwargs)

    return with_flags


def end_with(problems: Sequence[str], sentence: str) -> None:
    """Print the problems, if there are any, and end the command with ``sentence``: raises PatchError."""
    for problem in problems:
        click.echo(problem)
    if problems:
        raise PatchError(sentence)
