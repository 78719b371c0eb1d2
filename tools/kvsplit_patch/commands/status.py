"""``kvsplit-patch status``"""

import click


@click.command()
def command():
    """Show the series, what it stands on, and what is unfinished."""
    from importlib import metadata

    from .. import paths
    from ..series import journal, patchset
    from ..upstream import store

    folder = paths.patchset_dir()
    loaded = patchset.load(folder)
    upstream = loaded.lock.upstream
    click.echo(f"series {loaded.lock.series_version} in {folder}")
    known_as = [upstream.tag, upstream.bindings and f"llama-cpp-python {upstream.bindings}"]
    click.echo(f"on llama.cpp {upstream.commit}" + "".join(f", {name}" for name in known_as if name))
    for patch in loaded.patches:
        added, removed = patch.line_counts()
        click.echo(
            f"  {patch.name:20} {len(patch.touched()):3} files  +{added} -{removed}"
            f"  {patch.header.description.splitlines()[0]}"
        )
    try:
        click.echo(f"installed bindings: llama-cpp-python {metadata.version('llama-cpp-python')}")
    except metadata.PackageNotFoundError:
        click.echo("installed bindings: none")
    fetched = store.upstream_commits(store.open_store())
    click.echo("fetched: " + (", ".join(sorted(ref.split("/")[-1] for ref in fetched)) or "nothing yet"))
    if folder.parent != folder and (folder.parent / ".git").exists():
        state = journal.read(folder.parent)
        if state and state.stopped:
            click.echo(
                f"unfinished: {state.what} stopped at {state.todo[0].name} ({state.stopped}), work folder {state.work}"
            )
        elif state:
            click.echo(f"unfinished: {state.what} was cut short: run 'kvsplit-patch continue' or 'abort'")
