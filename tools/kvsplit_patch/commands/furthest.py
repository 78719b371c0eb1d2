"""``kvsplit-patch furthest``"""

import click

from ..echo import echo


@click.command()
@click.option("--from", "first", metavar="TAG", help="Look no further back.  [default: the tag on the series' base]")
@click.option("--to", "last", metavar="TAG", help="The newest tag to look at.  [default: the newest there is]")
def command(first, last):
    """Name the newest upstream tag on which every patch replays cleanly."""
    from ..proof import compat
    from ..series import applying, patchset
    from ..upstream import tags

    loaded = patchset.load()
    steps = applying.at_base(loaded)
    listing = tags.listing(loaded.lock.upstream.url)
    chosen = compat.choose(listing, loaded.lock.upstream.commit, first, last)
    row = compat.furthest(loaded, steps, listing, chosen, echo)
    behind = len(chosen) - 1 - [tag.name for tag in chosen].index(row.tag)
    click.echo(f"{row.tag} {row.commit}")
    if behind:
        click.echo(
            f"{behind} newer tags are not clean: 'kvsplit-patch bisect' names the commit that broke them.", err=True
        )
