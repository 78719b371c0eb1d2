"""``kvsplit-patch smoke``"""

import click

from ..echo import echo
from . import options


@click.command()
@options.target
@options.flags
@click.option(
    "--accept",
    is_flag=True,
    help="Store the unpatched build's numbers, and ours of types that it lacks, as the baseline.",
)
@click.option("--device", type=click.Choice(["softmetal"]), help="Compare the emulated Metal with the CPU instead.")
def command(target, flags, accept, device):
    """Measure what some caches do to the bundled model, patched, unpatched, and against the stored baseline."""
    from ..proof import report, smoke
    from ..series import trees

    if device:
        _on_softmetal(trees.patched(target))
        return

    plain = trees.unpatched(target)
    if accept:
        model, text = smoke.demo()
        both = [smoke.measured(tree, flags, model, text, echo) for tree in (trees.patched(target), plain)]
        smoke.write_baseline(both, plain.commit, model, text)
    measurement, problems = smoke.check(trees.patched(target), plain, trees.exact(target), flags, echo)
    click.echo("\n".join(report.smoke_table(measurement.as_json())))
    sentence = f"The build does not mean the same ({len(problems)} problems): mend the patch that causes them."
    options.end_with(problems, sentence)


def _on_softmetal(source):
    from softmetal import attention, build, smoke

    from ..proof.smoke import caches

    programs = build.programs(source, echo)
    rows = smoke.measure(programs, echo, caches(source))
    click.echo("\n".join(smoke.table(rows)))
    tensors = attention.tensor_kernels(programs)
    if tensors:
        click.echo(f"Not emulated, so not proven: {', '.join(tensors)}.")
    problems = [problem for row in rows for problem in row.problems()]
    sentence = f"The emulated Metal does not prove this ({len(problems)} problems): mend the kernels."
    options.end_with(problems, sentence)
