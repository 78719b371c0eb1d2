"""``kvsplit-patch verify``"""

import click

from .. import options


@click.command()
@options.target
@options.flags
def command(target, flags):
    """Replay, lint, build, abi, optests and smoke, in that order; `report` shows the result again."""
    from .. import report, verify
    from ..errors import PatchError

    verdict = verify.verify(target, flags, options.echo)
    click.echo(report.as_markdown(verdict), nl=False)
    if verdict.problems or any(check.skipped for check in verdict.checks):
        raise PatchError(f"{len(verdict.problems)} problems: see the table, or 'kvsplit-patch report'.")
