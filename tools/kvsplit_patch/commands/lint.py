"""``kvsplit-patch lint``"""

import click

from ..echo import echo
from . import options


@click.command()
@click.option("--build-each", is_flag=True, help="Also configure and compile after every patch (minutes each).")
def command(build_each):
    """Check patchset/: series, headers, hunk counts, hashes, trees, and that an export gives the same bytes."""
    from .. import paths
    from ..errors import PatchError
    from ..series import lint, patchset, replay
    from ..upstream import sources

    folder = paths.patchset_dir()
    faults = lint.lint(folder)
    options.end_with(faults, f"{folder} has {len(faults)} faults: mend them, or restore it with git checkout.")
    click.echo(f"{folder} is whole.")
    if build_each:
        from ..build import cmake

        applied = replay.apply_series()
        for name, tree in zip(patchset.read_names(folder), applied.after):
            targets = (*cmake.LIBRARIES, *cmake.TOOLS)
            try:
                with cmake.compiled(sources.materialize(tree), applied.commit, cmake.flags(), targets, echo):
                    click.echo(f"{name}.patch compiles on the patches before it.")
            except PatchError as fault:
                raise PatchError(f"{name}.patch does not compile on the patches before it: {fault.message}") from None
