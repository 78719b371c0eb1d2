"""llama.cpp's own programs, such as ``llama-server``: compiled from a build's own tree when they are first needed.

A build holds libraries, so that the first question is quick. A program comes to lie in ``backends/<id>/programs/NAME/``,
beside links to the very libraries of the build, and goes with it.
"""

from __future__ import annotations

from pathlib import Path

import click

from .. import companion
from ..errors import KvsplitError
from . import choice, first_build
from .shelf import CUSTOM, STOCK, Build


def ensure(name: str, *, flags: tuple[str, ...] = (), with_page: Path | None = None) -> Path:
    """The program ``name`` of the chosen build, which is made where there is none yet; the file to run.

    ``flags`` are cmake's, beyond those of the build. ``with_page`` is a folder of web pages for ``llama-server``.
    Raises KvsplitError where it cannot be made, click.Abort on Ctrl-C.
    """
    build = choice.ensure()
    if build.id in (STOCK, CUSTOM) or build.folder is None:
        raise KvsplitError(f"{choice.describe(build)} comes without {name}: {_next_step(build)}.")
    program = place(build, name, with_page=with_page is not None) / name
    if program.is_file():
        return program
    try:
        made = first_build.with_progress(companion.function("program"), build, program, flags=flags, page=with_page)
    except click.Abort:
        raise
    except click.ClickException as failure:
        raise KvsplitError(f"{name} cannot be made: {failure.message}") from failure
    return made


def place(build: Build, name: str, *, with_page: bool = False) -> Path:
    """The folder of a program, whether it is there or not; a server that holds a web page is one of its own."""
    assert build.folder is not None
    return build.folder / "programs" / (f"{name}-page" if with_page else name)


def _next_step(build: Build) -> str:
    if build.id == CUSTOM:
        return "unset LLAMA_CPP_LIB_PATH, and a build of the patch series is used"
    return "make a build of the patch series with 'llm kvsplit backend build', and choose it with 'llm kvsplit backend use'"
