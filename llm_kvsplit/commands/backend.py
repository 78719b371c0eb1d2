"""``llm kvsplit backend``: doors to kvsplit-patch's builds, for people who do not maintain the series."""

import click


@click.group()
def command():
    """Builds of the patch series: llama.cpp's libraries with what the patches add."""


@command.command()
@click.option("--cuda", is_flag=True, help="Also build the CUDA backend.")
@click.option("--vulkan", is_flag=True, help="Also build the Vulkan backend.")
def build(cuda, vulkan):
    """Compile the libraries for the installed bindings; the newest build is used from then on."""
    from .. import first_build

    _report(first_build.compile_series(cuda=cuda, vulkan=vulkan).name)


@command.command()
@click.pass_context
def install(ctx):
    """Download the libraries for the installed bindings, ready compiled; compile them where there are none."""
    from .. import prebuilt

    try:
        folder = prebuilt.install_tried()
    except prebuilt.NothingFits as reason:
        click.echo(f"{reason.message} Compiling one instead.", err=True)
        ctx.invoke(build, cuda=False, vulkan=False)
        return
    _report(folder.name)


def _report(identity):
    from .. import backend

    click.echo(identity)
    if backend.choose().id != identity:
        click.echo(f"'llm kvsplit backend use {identity}' makes it the one that is loaded.", err=True)


@command.command("list")
def list_builds():
    """Show the builds, newest first; * marks the one that is loaded."""
    from kvsplit_patch import build as builder

    from ..backend import choose, stock_folder

    chosen = choose()
    for manifest in builder.builds():
        mark = "*" if manifest["id"] == chosen.id else " "
        features = ", ".join(manifest.get("features", ())) or "unpatched"
        click.echo(f"{mark} {manifest['id']}  {manifest['created'][:10]}  {features}")
    if stock_folder():
        click.echo(f"{'*' if chosen.id == 'stock' else ' '} stock  the library that came with the bindings")
    elif chosen.id == "none":
        click.echo("There is no build yet: the first question makes one, or 'llm kvsplit backend install'.", err=True)
    if chosen.note:
        click.echo(chosen.note, err=True)


@command.command()
@click.argument("name")
def use(name):
    """Load the build NAME (an id or its beginning), or `stock`, from now on."""
    from kvsplit_patch import build as builder

    click.echo(f"Using {builder.use(name)}.")


@command.command()
@click.argument("name")
def remove(name):
    """Delete the build NAME (an id or its beginning)."""
    from kvsplit_patch import build as builder

    click.echo(f"Removed {builder.remove(name)}.")
