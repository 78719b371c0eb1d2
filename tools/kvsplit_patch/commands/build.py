"""``kvsplit-patch build``"""

import click

from ..echo import echo
from . import options


@click.command()
@options.target
@options.flags
@click.option("--portable", is_flag=True, help="For other machines of this kind, too, not just for this CPU.")
@click.option("--unpatched", is_flag=True, help="Build the commit as upstream has it.")
@click.option(
    "--wheel", type=click.Path(file_okay=False), metavar="FOLDER", help="Make a llama-cpp-python wheel there instead."
)
def command(target, flags, portable, unpatched, wheel):
    """Compile the patched llama.cpp into a folder of libraries that the plugin loads; the same one is not built twice."""
    from ..building import artifacts, cmake
    from ..series import trees

    flags = cmake.portable(flags) if portable else flags
    source = trees.unpatched(target) if unpatched else trees.patched(target)
    if wheel:
        from pathlib import Path

        from ..building.wheel import make

        click.echo(make(source, flags, Path(wheel), echo))
        return
    folder = artifacts.build(source, flags, echo)
    if database := cmake.compile_database(source.tree, flags):
        click.echo(f"how each file is compiled, for an editor: {database}", err=True)
    click.echo(folder)
