"""``kvsplit-patch verify``"""

import click

from ..echo import echo
from . import options


@click.command()
@options.target
@options.flags
def command(target, flags):
    """Replay, lint, abi, build, optests, softmetal and smoke, in that order; `report` shows the result again."""
    from ..errors import PatchError
    from ..proof import report, verify

    verdict = verify.verify(target, flags, echo)
    click.echo(report.as_markdown(verdict), nl=False)
    if verdict.problems or any(check.skipped for check in verdict.checks):
        raise PatchError(f"{len(verdict.problems)} problems: see the table, or 'kvsplit-patch report'.")
