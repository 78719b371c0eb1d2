"""``kvsplit-patch skip``"""

import click


@click.command()
def command():
    """Drop the patch a change of the series stopped at, and go on."""
    from .. import paths
    from ..series import journal, sequence

    project = paths.checkout()
    with journal.locked(project):
        sequence.skip(project)
