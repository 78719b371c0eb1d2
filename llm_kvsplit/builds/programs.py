"""llama.cpp's own programs, such as ``llama-server``: compiled from a build's own tree when they are first needed.

A build holds libraries alone, so that the first question is quick. A program comes to lie in
``backends/<id>/programs/NAME/``, beside links to the very libraries of the build, and goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from .. import companion
from ..errors import KvsplitError
from . import choice, first_build
from .shelf import CUSTOM, STOCK, Build


def ensure(name: str, *, variant: str = "", added: Mapping[str, Path] | None = None) -> Path:
    """The file of the program ``name`` of the chosen build; the program, and the build, are made where there is none yet.

    ``added`` are folders that are laid into upstream's tree, by their path in it, and ``variant`` names a program that was
    made so. Raises KvsplitError where it cannot be made, click.Abort on Ctrl-C.
    """
    build = _build(name)
    program = _place(build, name, variant)
    if program.is_file():
        return program
    try:
        return first_build.with_progress(companion.function("program"), build, program, added=added)
    except click.ClickException as failure:
        raise KvsplitError(f"{name} cannot be made: {failure.message}") from failure
    except OSError as failure:
        raise KvsplitError(f"{name} cannot be made ({failure.strerror}): check {failure.filename}.") from failure


def find(name: str, *, variant: str = "") -> Path | None:
    """The same, where it has been made already; else None. Raises KvsplitError for a library that is no build."""
    program = _place(_build(name), name, variant)
    return program if program.is_file() else None


def _build(name: str) -> Build:
    build = choice.ensure()
    if build.id == CUSTOM:
        raise KvsplitError(
            f"{choice.describe(build)} has no {name}: unset LLAMA_CPP_LIB_PATH, so that a build of the series is used."
        )
    if build.id == STOCK:
        raise KvsplitError(
            f"{choice.describe(build)} has no {name}: make a build of the series with 'llm kvsplit backend build', and "
            "choose it with 'llm kvsplit backend use'."
        )
    return build


def _place(build: Build, name: str, variant: str) -> Path:
    assert build.folder is not None
    return build.folder / "programs" / (f"{name}-{variant}" if variant else name) / name
