"""``kvsplit-patch nightly``"""

import sys

import click

from . import options


@click.command()
@click.option("--stage", "names", multiple=True, metavar="STAGE", help="Only this stage of `verify`; may be repeated.")
@click.option("--no-branch", is_flag=True, help="Leave branches alone when everything is green.")
@click.option("--dry-run", is_flag=True, help="Print what GitHub would be told.")
@click.option("--date", metavar="YYYY-MM-DD", help="The night this counts as.  [default: today, in UTC]")
@options.flags
def command(names, no_branch, dry_run, date, flags):
    """Prove the series on upstream's newest tags and bindings, find the commit behind each break, and report it.

    With GITHUB_TOKEN and GITHUB_REPOSITORY set, opens, updates and closes issues, and opens a pull request.
    Exit code 0: green; 1: red; 75: nothing could be told, mostly for want of the network.
    """
    from datetime import datetime, timezone

    from ..echo import echo
    from ..errors import NetworkError
    from ..nightly import github, nightly, record
    from ..proof import stages

    if set(names) - set(stages.NAMES):
        raise click.UsageError(f"--stage is one of {', '.join(stages.NAMES)}.")
    chosen = [name for name in stages.NAMES if not names or name in names]
    hub = github.from_environment(dry_run, echo)
    with record.locked():
        order = nightly.order(chosen, flags, hub, date or str(datetime.now(timezone.utc).date()), echo)
        night = nightly.prove(order)
        report = nightly.as_markdown(night)
        (record.folder() / "report.md").write_text(report)
        click.echo(report, nl=False)
        result = night.result
        try:
            nightly.publish(order, night, not no_branch)
        except NetworkError as failure:  # what was found out is kept; the next run passes it on
            click.echo(f"GitHub could not be told: {failure.message}", err=True)
            result = result if result == nightly.RED else nightly.UNTOLD
    if not hub:
        click.echo("There is no GITHUB_TOKEN, so GitHub was not told.", err=True)
    sys.exit(nightly.EXIT[result])
