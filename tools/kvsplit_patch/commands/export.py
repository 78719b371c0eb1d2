"""``kvsplit-patch export``"""

import click


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if a file would change.")
@click.option("--series-version", metavar="N", help="Give the series another version.")
def command(check, series_version):
    """Write patchset/ anew from its own patches: the same bytes on any machine.

    Takes plain `git diff` text under a DEP-3 header, so this is also how a hand-edited patch gets its final form.
    """
    from .. import journal, lint, paths, replay, sequence, series
    from ..errors import PatchError

    if check:
        folder = paths.patchset_dir()
        differing = lint.differing(folder, lint.export(folder, series_version))
        if differing:
            raise PatchError(f"An export would change {', '.join(differing)}: run kvsplit-patch export.")
        click.echo(f"{folder} is what an export gives.")
        return
    project = paths.checkout()
    with journal.locked(project):
        loaded = series.load(project / "patchset")
        steps, lock = replay.steps_at_base(loaded), loaded.lock
        sequence.start(project, "export", loaded, lock.upstream, lock.base_tree, steps, (), version=series_version)
