"""``kvsplit-patch continue``"""

import click


@click.command(name="continue")
def command():
    """Take the work folder as the stopped patch's result and go on; also after a kill."""
    from ..series import journal, sequence

    with journal.locked() as project:
        sequence.go_on(project)
