"""``kvsplit-patch undo``"""

import click


@click.command()
def command():
    """Put back the series as it was before the last finished change; a second undo puts that back."""
    from .. import paths
    from ..series import journal, sequence

    project = paths.checkout()
    with journal.locked(project):
        sequence.undo(project)
