"""``kvsplit-patch lint``"""

import click


@click.command()
@click.option("--build-each", is_flag=True, help="Also configure and compile after every patch (minutes each).")
def command(build_each):
    """Check patchset/: series, headers, hunk counts, hashes, trees, and that an export gives the same bytes."""
    from .. import lint, paths, replay, upstream
    from ..errors import PatchError

    folder = paths.patchset_dir()
    faults = lint.lint(folder)
    for fault in faults:
        click.echo(fault)
    if faults:
        raise PatchError(f"{folder} has {len(faults)} faults: mend them, or restore it with git checkout.")
    click.echo(f"{folder} is whole.")
    if build_each:
        from ..build import compile_tree

        for tree in replay.apply_series().after:
            compile_tree(upstream.materialize(tree))
            click.echo(f"{tree} compiles")
