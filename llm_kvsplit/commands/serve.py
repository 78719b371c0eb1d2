"""``llm kvsplit serve``: llama.cpp's own server for registered models."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import KvsplitError
from .parameters import positive, threads


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 for a free one.")
@positive("--users", default=4, show_default=True, help="Conversations at once, for each model.")
@positive("--n-ctx", help="Tokens for each user (default: as registered, else 8192 or what the model was trained for).")
@click.option("--kv", help="Cache, such as 8/4 or a layer map (default: as registered); several, to compare them.")
@click.option("--api-key", envvar="KVSPLIT_API_KEY", help="Key that clients must send (also: KVSPLIT_API_KEY).")
@click.option("--save-slots", type=click.Path(path_type=Path, file_okay=False), help="Folder for saved conversations.")
@click.option("--page/--no-page", default=True, help="Without llama.cpp's web page, no npm is asked to build it.")
@threads
@click.option("--verbose", is_flag=True, help="Show llama-server's whole log.")
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    users: int,
    n_ctx: int | None,
    kv: str | None,
    api_key: str | None,
    save_slots: Path | None,
    page: bool,
    threads: int | None,
    verbose: bool,
) -> None:
    """Serve each MODEL with llama.cpp's own server: its web page, and OpenAI's API for other programs.

    MODEL is a registered name or a GGUF file. Its users share one cache, in the bits that it is registered with.
    """
    from ..bench import subject
    from ..builds import choice
    from ..serve import launch, plan, server
    from ..units import size

    caches = subject.parse_caches(kv) if kv is not None else []
    port = launch.free_port(host, port)
    planned = plan.served(models, caches, users, n_ctx)
    memory = plan.memory_bytes(planned)
    plan.refuse_unless_they_fit(planned, memory)
    if save_slots:
        _make(save_slots)
    program, missing = server.program() if page else (server.without_page(), "")
    if missing:
        click.echo(f"llama.cpp's own web page is left out: {missing} --no-page asks for none.", err=True)
    if not launch.is_loopback(host) and not api_key:
        click.echo(
            f"Note: whoever reaches {host}:{port} can use it; --api-key KEY admits only who has the key.", err=True
        )
    for each in planned:
        taken = size(each.footprint.kv)
        click.echo(f"{each.name}: {each.cache} cache, {each.users} × {each.n_ctx} tokens, {taken}", err=True)
    folder = server.OWN_PAGE.parent if missing or not page else None
    settings = launch.Settings(host, port, api_key, threads, save_slots, folder, verbose)
    launch.become(launch.arguments(program, planned, settings, choice.extra_bufts(), memory), planned, settings)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KvsplitError(
            f"{folder} cannot be made ({error.strerror}): name another folder in --save-slots."
        ) from None
