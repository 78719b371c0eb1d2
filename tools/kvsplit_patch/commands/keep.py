"""``kvsplit-patch keep``"""

import click


@click.command()
@click.option(
    "--archive", metavar="PACKAGE==VERSION", help="The sdist that holds this upstream's files, where git's are not had."
)
def command(archive):
    """Keep how the series was resolved where it stands now, and put it back to where the last commit has it.

    A later rebase to the same upstream resolves it the same way, and so do build, verify and compat.
    """
    from ..errors import PatchError
    from ..series import journal, keeping
    from ..upstream.archive import is_package

    if archive and not is_package(archive):
        raise PatchError(f"{archive!r} is no PACKAGE==VERSION: give one such as xllamacpp==2026.10.11549.")
    with journal.locked() as project:
        kept = keeping.keep(project, archive)
    for each in kept:
        click.echo(f"patchset/{each.path}")
    if not kept:
        click.echo("Nothing is to be kept: each patch is what a merge makes of it there.")
