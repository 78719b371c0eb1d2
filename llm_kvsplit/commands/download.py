"""``llm kvsplit download``: fetch a GGUF file and register it as a model."""

from __future__ import annotations

from typing import Any

import click

from .. import gguf
from ..errors import KvsplitError
from ..models import download, remote
from ..paths import models_dir
from .add import free_names, register, registration


@click.command()
@click.argument("spec")
@click.argument("file", required=False)
@click.option("--sha256", help="What the file must have; Hugging Face's own is checked in any case.")
@registration
def command(
    spec: str, file: str | None, sha256: str | None, name: str | None, aliases: tuple[str, ...], **defaults: Any
) -> None:
    """Fetch a GGUF file and register it as a model.

    SPEC is a URL, or owner/repo on Hugging Face with FILE in it. The same command goes on after a cut. A token for
    files behind a login is taken from HF_TOKEN.
    """
    files = remote.resolve(spec, file)
    names = free_names(files[0].name, name, aliases)  # before the download, which may take an hour
    try:
        fetched = [download.fetch(source, models_dir(), sha256 if source is files[0] else None) for source in files]
    except KeyboardInterrupt:
        click.echo("\nStopped: the same command goes on from here.", err=True)
        raise click.exceptions.Exit(130) from None
    try:
        gguf.read(fetched[0].path)
    except KvsplitError:
        # Whole, as the server states it, and still not a model. Kept, it would pass for the download next time.
        for each in fetched:
            each.path.unlink(missing_ok=True)
        raise
    first = fetched[0]
    if first.reused:
        click.echo(f"{first.path} was here already and is what the server has.")
    register(first.path, names, **defaults, sha256=first.sha256, source=remote.public(files[0].url))
