"""``kvsplit-patch new``"""

import click


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--description", required=True, help="What the patch does and why; its first line is the subject.")
@click.option("--author", required=True, metavar='"NAME <MAIL>"')
@click.option("--forwarded", default="no", show_default=True, help="Where it was sent upstream, or no, or not-needed.")
@click.option(
    "--watch", multiple=True, metavar="PATH", help="A file, folder/ or glob it depends on without touching it."
)
def command(name, folder, description, author, forwarded, watch):
    """Make the edits in FOLDER, made by `apply`, a new patch on top of the series."""
    import re
    from datetime import datetime, timezone
    from pathlib import Path

    from ..errors import PatchError
    from ..series import applying, journal, patchset, replay, sequence, workfolder
    from ..series.dep3 import Header
    from ..series.resolutions import RESOLUTIONS
    from ..upstream import store

    name = name.removesuffix(".patch")
    if name == RESOLUTIONS or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise PatchError(
            f"{name!r} is no name for a patch: use small letters, digits and dashes, and another word than '{RESOLUTIONS}'."
        )
    folder = Path(folder).resolve()
    with journal.locked() as project:
        loaded = patchset.load(project / "patchset")
        if name in loaded.names():
            raise PatchError(f"The series has a patch named {name} already: take another name, or use refresh.")
        steps = applying.at_base(loaded)
        lock = loaded.lock
        top = steps[-1].after if steps else lock.base_tree
        workfolder.require_applied(folder, [top])
        tree = workfolder.read(folder)
        if tree == top:
            raise PatchError(f"{folder} holds no edit: change something there first.")
        header = Header(
            description=description.strip(),
            author=author,
            forwarded=forwarded,
            last_update=str(datetime.now(timezone.utc).date()),
            watch=tuple(sorted(watch)),
        )
        step = patchset.Step(name, header, top, tree)
        click.echo("changes " + ", ".join(replay.changed_paths(store.open_store(), top, tree)))
        sequence.start(project, f"new patch {name}", lock, [step], steps)
        workfolder.record(folder, step, amend=False)
