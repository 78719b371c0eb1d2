"""``llm kvsplit remove``: forget a model."""

from pathlib import Path

import click

from .. import gguf, registry
from ..errors import KvsplitError
from ..paths import models_dir


@click.command()
@click.argument("name")
@click.option("--delete-file", is_flag=True, help="Also delete what 'llm kvsplit download' fetched.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before deleting.")
def command(name: str, delete_file: bool, yes: bool) -> None:
    """Forget the model NAME; its file stays unless --delete-file is given."""
    if not delete_file:
        entry = registry.remove(name)
        click.echo(f"Removed {entry.name}; {entry.path} is still there.")
        return

    files = _downloaded(name)
    if files and not yes:
        click.confirm(f"Delete {', '.join(map(str, files))}?", abort=True)
    entry = registry.remove(name)  # first, so that no registered model is without its file
    for file in files:
        file.unlink(missing_ok=True)
    click.echo(f"Removed {entry.name} and deleted its file.")


def _downloaded(name: str) -> list[Path]:
    """The files to delete with the model; KvsplitError if they are the person's own, or another model's too."""
    entry = registry.get(name)
    if entry is None or name == registry.DEMO:
        return []  # removing it will say so
    if not entry.source or models_dir() not in entry.path.parents:
        raise KvsplitError(f"{entry.path} was not downloaded by llm-kvsplit: delete it yourself.")
    for other in registry.load().values():
        if other.path == entry.path and other.name != entry.name:
            raise KvsplitError(f"{entry.path} is also the model {other.name}: remove that first, or keep the file.")
    return [entry.path.with_name(part) for part in gguf.part_names(entry.path.name)]
