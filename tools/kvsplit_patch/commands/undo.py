"""``kvsplit-patch undo``"""

import click


@click.command()
def command():
    """Put back the series as it was before the last finished change; a second undo puts that back."""
    from .. import journal, paths, sequence

    project = paths.checkout()
    with journal.locked(project):
        sequence.undo(project)
