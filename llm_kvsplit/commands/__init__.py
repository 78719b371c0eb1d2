"""``llm kvsplit …``: one module a command, imported when it is called."""

from __future__ import annotations

import importlib

import click

#: Command -> what ``--help`` says of it, so that listing them imports none.
COMMANDS = {
    "add": "Register a GGUF file, or what 'find' lists, as a model.",
    "backend": "Install, build, list, choose and remove builds of the patch series.",
    "bench": "Measure pairs of cache bits at several lengths, into a folder of results.",
    "compare": "Measure five pairs of cache bits on a model, and recommend one.",
    "doctor": "Say which library is loaded and what it can do here.",
    "download": "Fetch a GGUF from a URL or Hugging Face and register it.",
    "find": "List the models that other programs keep on this machine.",
    "fit": "Show how much context fits in memory.",
    "info": "Show what a GGUF holds and what its KV cache takes.",
    "models": "List the registered models.",
    "plot": "Draw the results of bench: PNG, SVG, or one HTML page.",
    "remove": "Take a model out of the registry.",
    "rpc-server": "Let another machine compute here: hold layers of its model, and their cache.",
    "serve": "Serve models with llama.cpp's own server: web page and OpenAI API.",
    "sessions": "See and remove the KV states that follow-up questions start from.",
    "tune": "Choose the types of keys and values for each layer of a model.",
    "watch": "Watch the memory of the same prompt under two caches.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f".{name.replace('-', '_')}", __name__).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup)
def kvsplit() -> None:
    """Local GGUF models with separate bits for keys and values in the KV cache."""
