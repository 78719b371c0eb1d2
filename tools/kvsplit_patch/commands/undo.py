"""``kvsplit-patch undo``"""

import click


@click.command()
def command():
    """Put back the series as it was before the last finished change; a second undo puts that back."""
    from ..series import journal, sequence

    with journal.locked() as project:
        sequence.undo(project)
