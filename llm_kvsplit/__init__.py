"""llm-kvsplit: local GGUF models for llm, with separate bits for keys and values in the KV cache.

llm imports this for every command, so it holds the hooks and imports nothing heavy.
"""

from pluggy import HookimplMarker

# llm.hookimpl is this too; importing llm for it would cost every kvsplit-patch command a second.
hookimpl = HookimplMarker("llm")


@hookimpl
def register_models(register):
    import click

    from .errors import KvsplitError
    from .model import AsyncKvsplitModel, KvsplitModel
    from .registry import bundled, load

    try:
        entries = load()
    except KvsplitError as ex:
        # A damaged file of ours must not take llm's other models away.
        click.echo(f"llm-kvsplit: {ex}", err=True)
        entries = bundled()
    for entry in entries.values():
        register(KvsplitModel(entry), AsyncKvsplitModel(entry), aliases=entry.aliases)


@hookimpl
def register_commands(cli):
    from .commands import kvsplit

    cli.add_command(kvsplit)
