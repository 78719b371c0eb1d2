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
    from kvsplit_patch import build as builder
    from kvsplit_patch import cmake, options, trees

    # What the installed bindings vendor, not the newest base of the series: their structures must match.
    source = trees.patched(builder.bindings_version())
    folder = builder.build(source, cmake.flags(cuda=cuda, vulkan=vulkan), options.echo)
    click.echo(folder.name)
    if builder.active() not in ("", folder.name):
        click.echo(f"'llm kvsplit backend use {folder.name}' makes it the one that is loaded.", err=True)


@command.command()
@click.pass_context
def install(ctx):
    """Download the libraries for the installed bindings, ready compiled; compile them where there are none."""
    from .. import backend, prebuilt, probe

    try:
        folder = prebuilt.install(prebuilt.find())
        found = next(each for each in backend.builds() if each.id == folder.name)
        tried = probe.result(found)
        if not tried.usable:
            from kvsplit_patch import build as builder

            builder.remove(folder.name)
            raise prebuilt.NothingFits(f"The build {folder.name} does not run here ({tried.reason}).")
    except prebuilt.NothingFits as reason:
        click.echo(f"{reason.message} Compiling one instead, which takes some minutes.", err=True)
        ctx.invoke(build, cuda=False, vulkan=False)
        return
    click.echo(folder.name)
    if backend.choose().id != folder.name:
        click.echo(f"'llm kvsplit backend use {folder.name}' makes it the one that is loaded.", err=True)


@command.command("list")
def list_builds():
    """Show the builds, newest first; * marks the one that is loaded."""
    from kvsplit_patch import build as builder

    from ..backend import choose

    chosen = choose()
    for manifest in builder.builds():
        mark = "*" if manifest["id"] == chosen.id else " "
        features = ", ".join(manifest.get("features", ())) or "unpatched"
        click.echo(f"{mark} {manifest['id']}  {manifest['created'][:10]}  {features}")
    click.echo(f"{'*' if chosen.id == 'stock' else ' '} stock  the library that came with the bindings")
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
