"""``llm kvsplit remove``: forget a model."""

import click

from .. import gguf, registry
from ..errors import KvsplitError
from ..paths import models_dir


@click.command()
@click.argument("name")
@click.option("--delete-file", is_flag=True, help="Also delete what `llm kvsplit download` fetched.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before deleting.")
def command(name, delete_file, yes):
    """Forget the model NAME; its file stays unless --delete-file is given."""
    if not delete_file:
        entry = registry.remove(name)
        click.echo(f"Removed {entry.name}; {entry.path} is still there.")
        return

    entry = registry.get(name)
    if entry and (not entry.source or models_dir() not in entry.path.parents):
        raise KvsplitError(f"{entry.path} was not downloaded by llm-kvsplit: delete it yourself.")
    files = [entry.path.with_name(part) for part in gguf.part_names(entry.path.name)] if entry else []
    if files and not yes:
        click.confirm(f"Delete {', '.join(map(str, files))}?", abort=True)
    entry = registry.remove(name)
    for file in files:
        file.unlink(missing_ok=True)
    click.echo(f"Removed {entry.name} and deleted its file.")
