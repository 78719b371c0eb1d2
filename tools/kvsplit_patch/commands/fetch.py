"""``kvsplit-patch fetch``"""

import click


@click.command()
@click.argument("what", metavar="TAG|SHA", required=False)
@click.option(
    "--sdist", metavar="VERSION|FILE", help="The commit a llama-cpp-python release vendors, out of its sdist."
)
def command(what, sdist):
    """Bring an upstream commit into the cache; prints its 40-hex id."""
    from .. import paths
    from ..series import patchset
    from ..upstream import revisions
    from ..upstream.sdist import fetch_sdist

    if bool(what) == bool(sdist):
        raise click.UsageError("Give either TAG|SHA or --sdist.")
    if sdist:
        click.echo(fetch_sdist(sdist))
        return
    lock = patchset.read_lock(paths.patchset_dir())
    expected = lock.upstream.commit if what == lock.upstream.tag else None
    click.echo(revisions.fetch(lock.upstream.url, what, expected))
