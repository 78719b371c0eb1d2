"""``llm kvsplit backend``: the shelf of builds, and how one gets there."""

from __future__ import annotations

import click

_GOES_BEFORE = "LLAMA_CPP_LIB_PATH is set and goes before it: unset that to have it loaded."


@click.group()
def command() -> None:
    """Builds of the patch series: llama.cpp's libraries with what the patches add."""


@command.command()
@click.option("--cuda", is_flag=True, help="Also build the CUDA backend.")
@click.option("--vulkan", is_flag=True, help="Also build the Vulkan backend.")
def build(cuda: bool, vulkan: bool) -> None:
    """Compile the libraries here; the newest build is used from then on."""
    from ..builds import first_build

    _report(first_build.compile_series(cuda=cuda, vulkan=vulkan).name)


@command.command()
@click.pass_context
def install(ctx: click.Context) -> None:
    """Download the libraries for this machine, ready compiled; compile them where there are none."""
    from ..builds import download

    try:
        folder = download.install_tried()
    except download.NothingFits as reason:
        click.echo(f"{reason.message} Compiling one instead.", err=True)
        ctx.invoke(build, cuda=False, vulkan=False)
        return
    _report(folder.name)


def _report(identity: str) -> None:
    from ..builds import choice, shelf

    click.echo(identity)
    chosen = choice.choose().id
    if chosen == shelf.CUSTOM:
        click.echo(_GOES_BEFORE, err=True)
    elif chosen != identity:
        click.echo(f"'llm kvsplit backend use {identity}' makes it the one that is loaded.", err=True)


@command.command("list")
def list_builds() -> None:
    """Show the builds, newest first; * marks the one that is loaded."""
    from ..builds import choice, shelf

    chosen = choice.choose()
    for each in shelf.builds():
        mark = "*" if each.id == chosen.id else " "
        assert each.manifest is not None  # what has none is not on the shelf
        features = ", ".join(each.manifest.get("features", ())) or "unpatched"
        click.echo(f"{mark} {each.id}  {each.manifest['created'][:10]}  {features}")
    if shelf.stock_folder():
        click.echo(f"{'*' if chosen.id == shelf.STOCK else ' '} stock  the library that came with llama-cpp-python")
    elif chosen.id == shelf.NONE:
        click.echo("There is no build yet: the first question makes one, or 'llm kvsplit backend install'.", err=True)
    if chosen.note:
        click.echo(chosen.note, err=True)


@command.command()
@click.argument("name")
def use(name: str) -> None:
    """Load the build NAME (an id or its beginning), or 'stock', from now on."""
    from ..builds import choice, shelf

    click.echo(f"Using {shelf.use(name)}.")
    if choice.choose().id == shelf.CUSTOM:
        click.echo(_GOES_BEFORE, err=True)


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the build NAME (an id or its beginning)."""
    from ..builds import shelf

    click.echo(f"Removed {shelf.remove(name)}.")
