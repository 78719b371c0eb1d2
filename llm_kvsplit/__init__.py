"""llm-kvsplit: local GGUF models for llm, with separate bits for keys and values in the KV cache.

llm imports this for every command, so it holds the hooks and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

if TYPE_CHECKING:
    from click import Group

    from .registry import Entry

# llm.hookimpl is this too; importing llm for it would cost every kvsplit-patch command a second.
hookimpl = HookimplMarker("llm")


@hookimpl
def register_models(register: Callable[..., Any]) -> None:
    from .model import AsyncKvsplitModel, KvsplitModel

    for entry in _entries():
        if not entry.embeds:
            register(KvsplitModel(entry), AsyncKvsplitModel(entry), aliases=entry.aliases)


@hookimpl
def register_embedding_models(register: Callable[..., Any]) -> None:
    from .embedding import KvsplitEmbeddingModel

    for entry in _entries():
        if entry.embeds:
            register(KvsplitEmbeddingModel(entry), aliases=entry.aliases)


def _entries() -> Iterable[Entry]:
    """The registered models. A damaged list of ours must not take llm's other models away."""
    import click

    from .errors import KvsplitError
    from .registry import bundled, load

    try:
        return load().values()
    except KvsplitError as ex:
        click.echo(f"llm-kvsplit: {ex}", err=True)
        return bundled().values()


@hookimpl
def register_commands(cli: Group) -> None:
    from .commands import kvsplit

    cli.add_command(kvsplit)
