"""``kvsplit-patch optests``"""

import click

from ..echo import echo
from . import options


@click.command()
@options.target
@options.flags
def command(target, flags):
    """Run upstream's test-backend-ops for flash attention, and require the pairs of cache types that we need."""
    from ..building import artifacts
    from ..proof import optests
    from ..series import trees

    backends = optests.run(artifacts.tools(trees.patched(target), flags, echo), echo)
    for backend in backends:
        click.echo(f"{backend.name}: {backend.passed} passed, {len(backend.failed)} failed")
    problems = optests.problems(backends)
    options.end_with(problems, f"The operation tests found {len(problems)} problems: mend the patch that causes them.")
