"""``kvsplit-patch smoke``"""

import click

from .. import options


@click.command()
@options.target
@options.flags
@click.option("--accept", is_flag=True, help="Store the unpatched build's numbers as the baseline.")
@click.option("--device", type=click.Choice(["softmetal"]), help="Compare the emulated Metal with the CPU instead.")
def command(target, flags, accept, device):
    """Measure what five caches do to the bundled model, patched, unpatched, and against the stored baseline."""
    from .. import report, smoke, trees
    from ..errors import PatchError

    if device:
        return _on_softmetal(trees.patched(target))

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


def _on_softmetal(source):
    from softmetal import build, smoke

    from ..errors import PatchError

    rows = smoke.measure(build.programs(source, options.echo), options.echo)
    click.echo("\n".join(smoke.table(rows)))
    found = [problem for row in rows for problem in row.problems()]
    for problem in found:
        click.echo(problem)
    if found:
        raise PatchError(f"The emulated Metal and the CPU are too far apart ({len(found)} problems): mend the kernels.")
