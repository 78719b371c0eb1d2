"""``kvsplit-patch abi``"""

import click

from . import options


@click.command()
@options.target
def command(target):
    """Compare the installed bindings' structures and functions with the headers of the patched tree."""
    from ..building import abi, artifacts
    from ..errors import PatchError
    from ..series import trees

    source = trees.patched(target)
    misfits = abi.mismatches(source.folder)
    for mismatch in misfits:
        click.echo(mismatch)
    if misfits:
        raise PatchError(
            f"llama-cpp-python {artifacts.bindings_version()} does not fit llama.cpp {source.commit} ({len(misfits)} mismatches): "
            "a build of it cannot be used with these bindings."
        )
    click.echo(f"llama-cpp-python {artifacts.bindings_version()} fits llama.cpp {source.commit}")
