"""``kvsplit-patch fetch``"""

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("what", metavar="TAG|SHA", required=False)
@click.option(
    "--sdist", metavar="VERSION|FILE", help="The commit a llama-cpp-python release vendors, out of its sdist."
)
@click.option(
    "--archive",
    metavar="FILE|FOLDER|PACKAGE==VERSION",
    help="llama.cpp's files without git's objects: a source archive, a folder, or the sdist of a package that vendors them.",
)
@click.option("--name", help="With --archive: what to call it, such as b11549.")
@click.option(
    "--commit", metavar="SHA", help="With --archive: the upstream commit that it was made of, if you know it."
)
@options.upstream
def command(what, sdist, archive, name, commit, url):
    """Bring an upstream commit into the cache; prints its 40-hex id."""
    from .. import paths
    from ..series import patchset
    from ..upstream import revisions
    from ..upstream.archive import fetch_archive, fetch_package, is_package
    from ..upstream.sdist import fetch_sdist

    if [bool(what), bool(sdist), bool(archive)].count(True) != 1:
        raise click.UsageError("Give one of TAG|SHA, --sdist and --archive.")
    if (name or commit) and not archive:
        raise click.UsageError("--name and --commit go with --archive.")
    if sdist:
        click.echo(fetch_sdist(sdist))
    elif archive:
        path = Path(archive)
        package = is_package(archive) and not path.exists()
        click.echo(fetch_package(archive, name, commit) if package else fetch_archive(path, name, commit))
    else:
        lock = patchset.read_lock(paths.patchset_dir())
        expected = lock.upstream.commit if what == lock.upstream.tag else None
        click.echo(revisions.fetch(url or lock.upstream.url, what, expected))
