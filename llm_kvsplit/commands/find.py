"""``llm kvsplit find``: models that other programs keep on this machine."""

from __future__ import annotations

import json
import os
import shlex

import click

from .. import fit, gguf, registry
from ..models import find
from ..models.estimate import RESERVED, estimate
from ..models.place import printable
from ..units import size


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(as_json: bool) -> None:
    """List the models that other programs keep on this machine, and whether they fit its memory.

    Looks at what Ollama, Hugging Face, llama.cpp, LM Studio, Jan, GPT4All and other plugins of llm have downloaded.
    'llm kvsplit add NAME' uses one where it lies. Nothing is changed or copied.
    """
    inventory = find.inventory()
    memory = fit.memory_bytes()
    registered = [(entry.name, os.path.realpath(entry.path)) for entry in registry.load().values()]
    models = [_facts(file, header, memory, registered) for file, header in inventory.models]
    if as_json:
        others = [{"name": file.handle, "path": str(file.path), "is": what} for file, what in inventory.others]
        faults = [{"path": str(fault.path), "reason": fault.reason} for fault in inventory.faults]
        click.echo(json.dumps({"memory": memory, "models": models, "others": others, "left_out": faults}, indent=2))
        return
    if models:
        _table(models)
        click.echo(
            f"\n{size(memory)} of memory, less {size(RESERVED)} for buffers, for the weights and a K8V4 cache of all the "
            "tokens it was trained for. 'llm kvsplit fit' asks llama.cpp.\n"
            f"Use one where it lies: llm kvsplit add {_word(_first_new(models)['name'])}"
        )
    else:
        click.echo("No models of other programs lie here: 'llm kvsplit download' fetches one.")
    if inventory.others:
        click.echo("\nNot language models:")
        for file, what in inventory.others:
            click.echo(f"  {printable(file.handle)} is {what}")
    if inventory.faults:
        click.echo("\nLeft out:")
        for fault in inventory.faults:
            click.echo(f"  {printable(f'{fault.path} {fault.reason}')}")


def _facts(file: find.ModelFile, header: gguf.Gguf, memory: int, registered: list[tuple[str, str]]) -> dict:
    fits = estimate(header, memory)
    paths = {os.path.realpath(each.path) for each in file.places}
    return {
        "name": file.handle,
        "names": [{"program": each.program, "name": each.name} for each in file.places],
        "path": str(file.path),
        "size": header.size,
        "architecture": header.architecture,
        "file_type": header.file_type or header.weights,
        "n_ctx_train": header.n_ctx_train,
        "fits": str(fits),
        "fitting_n_ctx": fits.n_ctx,
        "fitting_pair": str(fits.pair),
        "options": file.places[0].options,
        "added_as": [name for name, path in registered if path in paths],
    }


def _table(models: list[dict]) -> None:
    rows = [("model", "size", "type", "memory", "program")]
    for model in models:
        programs = ", ".join(dict.fromkeys(each["program"] for each in model["names"]))
        added = f", added as {', '.join(model['added_as'])}" if model["added_as"] else ""
        kind = model["file_type"] or ""
        rows.append((printable(model["name"]), size(model["size"]), kind, model["fits"], programs + added))
    name, amount, kind, fits = (max(len(row[i]) for row in rows) for i in range(4))
    for row in rows:
        line = f"{row[0]:{name}}  {row[1]:>{amount}}  {row[2]:{kind}}  {row[3]:{fits}}  {row[4]}"
        click.echo(line.rstrip())


def _first_new(models: list[dict]) -> dict:
    """What to show as an example."""
    return next((each for each in models if not each["added_as"] and each["fitting_n_ctx"] != 0), models[0])


def _word(name: str) -> str:
    return shlex.quote(name) if name.isprintable() else "NAME"
