"""``kvsplit-patch optests``"""

import click

from .. import options


@click.command()
@options.target
@options.flags
def command(target, flags):
    """Run upstream's test-backend-ops for flash attention, and require the pairs of cache types that we need."""
    from .. import build, optests, trees

    backends = optests.run(build.tools(trees.patched(target), flags, options.echo), options.echo)
    for backend in backends:
        click.echo(f"{backend.name}: {backend.passed} passed, {len(backend.failed)} failed")
    found = optests.problems(backends)
    options.end_with(found, f"The operation tests found {len(found)} problems: mend the patch that causes them.")
