"""``kvsplit-patch skip``"""

import click


@click.command()
def command():
    """Drop the patch a change of the series stopped at, and go on."""
    from .. import journal, paths, sequence

    project = paths.checkout()
    with journal.locked(project):
        sequence.skip(project)
