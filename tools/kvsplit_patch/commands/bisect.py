"""``kvsplit-patch bisect``"""

import click

from ..echo import echo
from . import options


@click.command()
@click.option("--from", "good", metavar="TAG", help="A tag that passes.  [default: the one on the series' base]")
@click.option("--to", "bad", metavar="TAG", help="A later one that does not.  [default: the newest]")
@click.option("--stage", default="replay", show_default=True, help="What to test by: a stage of `verify`, or speed.")
@click.option("--floor", type=float, help="For speed: K8V4's least speed, as a multiple of f16's.")
@options.flags
def command(good, bad, stage, floor, flags):
    """Name the first upstream commit on which a stage fails; goes on where an earlier run was cut short."""
    from ..nightly import bisection, culprit
    from ..proof import compat, stages
    from ..series import patchset
    from ..upstream import tags

    if (stage == "speed") != (floor is not None):
        raise click.UsageError("--floor goes with --stage speed, and only with it.")
    if stage not in (*stages.NAMES, "speed"):
        raise click.UsageError(f"--stage is one of {', '.join(stages.NAMES)}, speed.")
    loaded = patchset.load()
    listing = tags.listing(loaded.lock.upstream.url)
    line = compat.choose(listing, loaded.lock.upstream.commit, good, bad)
    by = stages.speed(floor) if stage == "speed" else stages.named(stage)
    search = bisection.search(listing, line[0], line[-1], by, flags, echo)
    suspects = search.suspects()
    if len(suspects) > 1:
        click.echo(f"one of these {len(suspects)} commits; {stage} cannot be tested on all but the last:")
        for commit in suspects[:-1]:
            click.echo(commit)
    if search.by_tags:
        click.echo(f"somewhere after {search.before_suspects()}, whose history {listing.url} does not give, up to")
    click.echo(culprit.examine(loaded, search.before_suspects(), suspects[-1]).summary())
    for problem in next((trial.problems for trial in search.trials if trial.commit == suspects[-1]), ()):
        click.echo(f"  {stage}: {problem}")
    click.echo(f"tried {len(search.trials)} of {len(search.candidates)} commits", err=True)
