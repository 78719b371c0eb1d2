"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import KvsplitError


def _positive(_context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise KvsplitError(f"--{parameter.name.replace('_', '-')} must be 1 or more, not {value}.")
    return value


def positive(*names: str, **attributes: Any) -> Any:
    """An option that takes a whole number from 1."""
    return click.option(*names, type=int, callback=_positive, **attributes)


#: The person's own text to measure on.
text = click.option(
    "--text", type=click.Path(path_type=Path), help="A UTF-8 text to measure on (default: the bundled one)."
)
threads = positive("--threads", help="CPU threads (default: one a core).")
