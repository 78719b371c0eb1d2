"""``kvsplit-patch refresh``"""

import click


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
def command(folder):
    """Take the edits in FOLDER, made by `apply`, into the patch it was laid out through; later patches follow."""
    from dataclasses import replace
    from datetime import datetime, timezone
    from pathlib import Path

    from ..errors import PatchError
    from ..series import applying, journal, patchset, replay, sequence, workfolder
    from ..upstream import store

    folder = Path(folder).resolve()
    with journal.locked() as project:
        loaded = patchset.load(project / "patchset")
        steps = applying.at_base(loaded)
        note = workfolder.require_applied(folder, [loaded.lock.base_tree, *(step.after for step in steps)])
        if not note["patch"]:
            raise PatchError(f"{folder} was laid out without a patch: make one of its edits with 'kvsplit-patch new'.")
        at = loaded.index(note["patch"])
        tree, step = workfolder.read(folder), steps[at]
        if tree == step.after:
            raise PatchError(f"{folder} holds no edit: change something there first.")
        if tree == step.before:
            raise PatchError(
                f"{folder} holds nothing of {step.name}: to drop the patch, take it out of patchset/series and run 'kvsplit-patch export'."
            )
        header = replace(step.header, last_update=str(datetime.now(timezone.utc).date()))
        edited = replace(step, header=header, after=tree)
        click.echo("changes " + ", ".join(replay.changed_paths(store.open_store(), step.before, tree)))
        sequence.start(project, f"refresh of {step.name}", loaded.lock, [edited, *steps[at + 1 :]], steps[:at])
        workfolder.record(folder, edited, amend=True)
