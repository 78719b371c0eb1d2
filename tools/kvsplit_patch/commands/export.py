"""``kvsplit-patch export``"""

import click


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if a file would change.")
@click.option("--series-version", metavar="N", help="Give the series another version.")
def command(check, series_version):
    """Write patchset/ anew from its own patches: the same bytes on any machine.

    Takes plain `git diff` text under a DEP-3 header, so this is also how a hand-edited patch gets its final form;
    patches taken out of patchset/series, or put in another order there, are replayed.
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
        lock = loaded.lock
        moved = replay.steps_in_new_order(loaded)
        done, todo = ((), moved) if moved is not None else (replay.steps_at_base(loaded), ())
        sequence.start(project, "export", loaded, lock.upstream, lock.base_tree, done, todo, version=series_version)
