"""``kvsplit-patch rebase``"""

from time import perf_counter

import click

from . import options


@click.command()
@click.argument("target", metavar="TAG|SHA|VERSION")
@click.option("--plan", is_flag=True, help="Only say what would become of each patch; changes nothing.")
@click.option("--diff", is_flag=True, help="Also show upstream's changes to the functions that the patches change.")
@options.upstream
def command(target, plan, diff, url):
    """Move the series to another upstream commit: a tag, a 40-hex id, or what a llama-cpp-python VERSION vendors."""
    from contextlib import nullcontext
    from dataclasses import replace

    from .. import paths
    from ..series import applying, journal, patchset, sequence, targets, watched
    from ..upstream import revisions, store

    project = paths.checkout()
    with nullcontext() if plan else journal.locked(project):
        loaded = patchset.load(project / "patchset")
        commit, tag = targets.resolve(loaded, target, url)
        if commit == loaded.lock.upstream.commit:
            click.echo(f"The series stands on {commit} already.")
            return
        steps = applying.at_base(loaded)
        repo = store.open_store()
        base = store.tree_of(repo, commit)
        applying.require_range(repo, steps, base, target)
        bindings, archive = revisions.bindings_of(repo, commit), revisions.archive_of(repo, commit)
        where = patchset.Upstream(loaded.lock.upstream.url, commit, tag, bindings, archive)
        click.echo(f"from llama.cpp {loaded.lock.upstream.commit}\nto   llama.cpp {commit}")
        if plan:
            _plan(repo, steps, base, loaded.kept(base))
        upstream = watched.between(repo, loaded.lock.base_tree, base)
        _show_watched(list(watched.changes(repo, loaded, upstream)), list(watched.new_lines(repo, loaded, upstream)))
        if diff:
            for name, path, text in watched.function_changes(repo, steps, upstream):
                click.echo(f"\n{name}: {path}\n{text}", nl=False)
        if not plan:
            lock = replace(loaded.lock, upstream=where, base_tree=base)
            sequence.start(project, f"rebase to {target}", lock, steps)


def _plan(repo, steps, base, kept):
    from ..series import replay

    began, unsure = perf_counter(), False
    for step, _, outcome in replay.onto(repo, steps, base, kept):
        click.echo(f"  {step.name:20} {outcome.summary()}{' (without the patches above that stop)' if unsure else ''}")
        for path, why in outcome.conflicts:
            click.echo(f"      {path}: {why}")
        for line in outcome.lines:
            click.echo(f"      {line}")
        unsure = unsure or outcome.state not in replay.DONE
    click.echo(f"replayed {len(steps)} patches in {(perf_counter() - began) * 1000:.0f} ms")


def _show_watched(changes, lines):
    if changes:
        click.echo("upstream changed files that the series touches or watches:")
    for change in changes:
        click.echo(f"  {change.patch:20} {change.path}  +{change.added} -{change.removed} {change.note}".rstrip())
    if lines:
        click.echo(
            "upstream has new lines of the kind that a patch watches for (look whether it must change them, too):"
        )
    for line in lines:
        click.echo(f"  {line.patch:20} {line.path}:{line.number}  {line.text}")
