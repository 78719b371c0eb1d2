"""``kvsplit-patch continue``"""

import click


@click.command(name="continue")
def command():
    """Take the work folder as the stopped patch's result and go on; also after a kill."""
    from .. import paths
    from ..series import journal, sequence

    project = paths.checkout()
    with journal.locked(project):
        sequence.go_on(project)
