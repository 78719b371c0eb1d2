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
def command(first, last, every, form):
    """Replay the series in memory onto every upstream tag, and show what becomes of each patch."""
    from ..proof import compat, compat_report
    from ..series import applying, patchset
    from ..upstream import tags

    loaded = patchset.load()
    steps = applying.at_base(loaded)
    listing = tags.listing(loaded.lock.upstream.url)
    chosen = compat.choose(listing, loaded.lock.upstream.commit, first, last, every)
    made = compat.table(loaded, steps, listing.url, chosen, echo)
    write = {"markdown": compat_report.as_markdown, "json": compat_report.as_json, "html": compat_report.as_html}[form]
    click.echo(write(made).rstrip("\n"))
    seconds = sum(row.seconds for row in made.rows)
    echo(f"replayed {len(loaded.patches)} patches onto {len(made.rows)} tags in {seconds:.1f} s")
