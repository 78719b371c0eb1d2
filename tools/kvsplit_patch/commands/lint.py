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
    from ..series import applying, lint, patchset
    from ..upstream import source_folders

    folder = paths.patchset_dir()
    faults = lint.lint(folder)
    options.end_with(faults, f"{folder} has {len(faults)} faults: mend them, or restore it with 'git checkout'.")
    click.echo(f"{folder} is whole.")
    if build_each:
        from ..build import cmake

        loaded = patchset.load(folder)
        for step in applying.at_base(loaded):
            targets = (*cmake.LIBRARIES, *cmake.TOOLS)
            try:
                with cmake.compiled(
                    source_folders.materialize(step.after), loaded.lock.upstream.commit, cmake.flags(), targets, echo
                ):
                    click.echo(f"{step.name}.patch compiles on the patches before it.")
            except PatchError as fault:
                raise PatchError(
                    f"{step.name}.patch does not compile on the patches before it: {fault.message}"
                ) from None
