"""``kvsplit-patch compat``"""

import click

from ..echo import echo


@click.command()
@click.option("--from", "first", metavar="TAG", help="The first tag.  [default: the one on the series' base]")
@click.option("--to", "last", metavar="TAG", help="The last tag.  [default: the newest]")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Look at each N-th tag only.")
@click.option(
    "--format", "form", type=click.Choice(["markdown", "json", "html"]), default="markdown", show_default=True
)
@click.option(
    "--releases", is_flag=True, help="Of tags, take what packages vendor: llama-cpp-python's releases, and more."
)
@click.argument("targets", nargs=-1, metavar="[TAG|SHA|VERSION]...")
def command(first, last, every, form, releases, targets):
    """Replay the series in memory onto every upstream tag, or those named, and show what becomes of each patch."""
    from ..proof import compat, compat_report
    from ..series import applying, patchset
    from ..upstream import tags

    if bool(targets) + releases + bool(first or last or every > 1) > 1:
        raise click.UsageError("Give targets, --releases, or a range of tags (--from, --to, --every).")
    loaded = patchset.load()
    if targets or releases:
        made = compat.releases(loaded) if releases else compat.table_of(loaded, targets)
    else:
        listing = tags.listing(loaded.lock.upstream.url)
        chosen = compat.choose(listing, loaded.lock.upstream.commit, first, last, every)
        made = compat.table(loaded, applying.at_base(loaded), listing.url, chosen, echo)
    write = {"markdown": compat_report.as_markdown, "json": compat_report.as_json, "html": compat_report.as_html}[form]
    click.echo(write(made).rstrip("\n"))
    seconds = sum(row.seconds for row in made.rows)
    echo(f"replayed {len(loaded.patches)} patches onto {len(made.rows)} commits in {seconds:.1f} s")
