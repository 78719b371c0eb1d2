"""How progress is shown: one line after another, on stderr."""

import sys
from collections.abc import Callable

import click

Echo = Callable[[str], None]


def echo(line: str) -> None:
    """Progress goes to stderr: ninja's steps over one another on a terminal, and only now and then to a file."""
    count, _, total = line.partition(" ")[0].strip("[]").partition("/")
    if not (count.isdigit() and total.isdigit()):
        click.echo(line, err=True)
    elif sys.stderr.isatty():
        click.echo(f"\r\x1b[2K{line[:100]}", err=True, nl=count == total)
    elif int(count) % max(1, int(total) // 10) == 0 or count == total:
        click.echo(line, err=True)
