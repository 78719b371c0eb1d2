"""``kvsplit-patch abi``"""

import click

from . import options


@click.command()
@options.target
def command(target):
    """Say whether the headers of the patched tree have what the plugin uses, and what its structures gained and lost."""
    from llm_kvsplit.builds import interface

    from ..building import headers
    from ..errors import PatchError
    from ..series import trees

    source = trees.patched(target)
    defined = headers.of_tree(source.folder)
    for change in interface.changes(headers.of_tree(trees.unpatched().folder), defined):
        click.echo(f"since the base, {change}")
    clauses = interface.faults(defined)
    for clause in clauses:
        click.echo(clause)
    if clauses:
        raise PatchError(
            f"The plugin cannot use a build of llama.cpp {source.commit} ({len(clauses)} faults): see "
            "llm_kvsplit/builds/interface.py for what it uses."
        )
    click.echo(f"the plugin can use a build of llama.cpp {source.commit}")
