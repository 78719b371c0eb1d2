"""``kvsplit-patch export``"""

import click


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if a file would change.")
@click.option("--series-version", metavar="N", help="Give the series another version.")
def command(check, series_version):
    """Write patchset/ anew from its own patches: the same bytes on any machine.

    Takes files as they were edited, and plain `git diff` text under a DEP-3 header: this is how a patch edited by hand
    gets its final form. What follows a patch that was edited, moved in patchset/series or taken out of it is replayed.
    """
    from dataclasses import replace

    from .. import paths
    from ..errors import PatchError
    from ..series import applying, journal, lint, patchset, sequence

    if check:
        folder = paths.patchset_dir()
        differing = lint.differing(folder, lint.export(folder, series_version))
        if differing:
            raise PatchError(f"An export would change {', '.join(differing)}: run 'kvsplit-patch export'.")
        click.echo(f"{folder} is what an export gives.")
        return
    with journal.locked() as project:
        loaded = patchset.load(project / "patchset")
        lock = loaded.lock
        done, todo = applying.as_edited(loaded)
        lock = replace(lock, series_version=series_version or lock.series_version)
        sequence.start(project, "export", lock, todo, done)
