"""``kvsplit-patch smoke``"""

import click

from .. import options


@click.command()
@options.target
@options.flags
@click.option("--accept", is_flag=True, help="Store the unpatched build's numbers as the baseline.")
def command(target, flags, accept):
    """Measure what five caches do to the bundled model, patched, unpatched, and against the stored baseline."""
    from .. import report, smoke, trees
    from ..errors import PatchError

    plain = trees.unpatched(target)
    if accept:
        model, text = smoke.demo()
        smoke.write_baseline(smoke.measured(plain, flags, model, text, options.echo), plain.commit, model, text)
    measurement, found = smoke.check(trees.patched(target), plain, flags, options.echo)
    click.echo("\n".join(report.smoke_table(measurement.as_json())))
    for problem in found:
        click.echo(problem)
    if found:
        raise PatchError(f"The build does not mean the same ({len(found)} problems): mend the patch that causes them.")
