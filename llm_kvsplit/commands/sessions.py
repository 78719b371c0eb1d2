"""``llm kvsplit sessions``: the KV states kept on disk."""

from __future__ import annotations

import datetime

import click

from .. import units


@click.group()
def command() -> None:
    """See and remove the KV states that follow-up questions start from."""


@command.command("list")
def list_() -> None:
    """List the stored states, most recently used first."""
    from ..sessions import budget, states

    for session in states.sessions():
        when = datetime.datetime.fromtimestamp(session.path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        types = f"{session.key['k_type']}/{session.key['v_type']}"
        size = units.size(session.offset + session.size)
        click.echo(f"{session.conversation}  {when}  {session.model}  {types}  {len(session.tokens)} tokens  {size}")
    click.echo(f"{units.size(budget.used())} of {units.size(budget.budget())} used.")


@command.command()
@click.argument("conversation")
def show(conversation: str) -> None:
    """Show the stored states of a conversation (its id, or the beginning of it)."""
    from ..errors import KvsplitError
    from ..sessions import states

    stored = [session for session in states.sessions() if session.conversation.startswith(conversation)]
    if not stored:
        raise KvsplitError(f"No state is stored for {conversation}: 'llm kvsplit sessions list' shows what there is.")
    for session in stored:
        created = datetime.datetime.fromtimestamp(session.created).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"conversation  {session.conversation}")
        click.echo(f"stored        {created}")
        click.echo(f"model         {session.model}, SHA-256 {session.key['model']}")
        click.echo(f"keys, values  {session.key['k_type']}, {session.key['v_type']}")
        click.echo(f"tokens        {len(session.tokens)}")
        click.echo(f"state         {session.size} bytes, {session.size / len(session.tokens):.1f} a token")
        click.echo(f"file          {session.path}")


@command.command()
@click.argument("conversation", required=False)
def clear(conversation: str | None) -> None:
    """Remove all stored states, or those of one conversation; the conversations themselves stay in llm's log."""
    from ..sessions import folder, states

    paths = folder.state_files()
    if conversation is not None:
        paths = [session.path for session in states.sessions() if session.conversation.startswith(conversation)]
    for path in paths:
        path.unlink(missing_ok=True)
    click.echo(f"Removed {len(paths)} stored state{'' if len(paths) == 1 else 's'}.")


@command.command()
def path() -> None:
    """Print the folder that the states are in."""
    from ..sessions.folder import folder

    click.echo(folder())


@command.command("budget")
@click.argument("size", required=False)
def budget_(size: str | None) -> None:
    """Show how much disk the states may take, or set it: 10GB, 500MiB, or "auto" for a tenth of the free disk."""
    from ..sessions import budget

    if size is not None:
        budget.set_budget(None if size == "auto" else units.parse_size(size))
        budget.make_room(0)
    click.echo(f"{units.size(budget.used())} of {units.size(budget.budget())} used.")
