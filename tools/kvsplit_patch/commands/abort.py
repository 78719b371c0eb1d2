"""``kvsplit-patch abort``"""

import click


@click.command()
def command():
    """Forget an unfinished change of the series; patchset/ is as it was."""
    from ..series import journal, sequence

    with journal.locked() as project:
        if sequence.abort(project):
            click.echo("patchset/ is as it was.")
        else:
            click.echo("The new series was already in place, so it was finished: 'kvsplit-patch undo' takes it back.")
