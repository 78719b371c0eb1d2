"""``kvsplit-patch apply``"""

import click


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--through", metavar="PATCH", help="Stop after this patch, to edit it.  [default: the last]")
def command(folder, through):
    """Lay out the patched llama.cpp in FOLDER, a git repository with one commit a patch.

    Edit there, then take the edits back with `refresh` or `new`.
    """
    from pathlib import Path

    from ..series import applying, patchset, workfolder

    loaded = patchset.load()
    steps = applying.at_base(loaded)
    if through:
        steps = steps[: loaded.index(through) + 1]
    lock = loaded.lock
    commits = [(f"llama.cpp {lock.upstream.commit}", lock.base_tree)]
    commits += map(workfolder.commit_of, steps)
    note = {"kind": "apply", "patch": steps[-1].name if steps else None, "tree": commits[-1][1]}
    workfolder.create(Path(folder).resolve(), note, commits)
    click.echo(f"{folder}: {len(steps)} patches on llama.cpp {lock.upstream.commit}")
