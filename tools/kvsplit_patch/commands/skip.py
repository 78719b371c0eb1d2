"""``kvsplit-patch skip``"""

import click


@click.command()
def command():
    """Drop the patch a change of the series stopped at, and go on."""
    from ..series import journal, sequence

    with journal.locked() as project:
        sequence.skip(project)
