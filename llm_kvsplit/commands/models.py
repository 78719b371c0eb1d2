"""``llm kvsplit models``: what is registered."""

import json
from dataclasses import asdict

import click

from .. import gguf, media, registry
from ..errors import KvsplitError
from ..units import size


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(as_json: bool) -> None:
    """List the registered models."""
    models = [_facts(entry) for entry in registry.load().values()]
    if as_json:
        click.echo(json.dumps(models, indent=2))
        return
    for model in models:
        aliases = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
        click.echo(f"{model['name']}{aliases}")
        if model["error"]:
            click.echo(f"    {model['error']}")
        else:
            facts = [model["architecture"], size(model["size"]), f"trained for {model['n_ctx_train']} tokens"]
            facts += ["for llm embed"] if model["embeds"] else []
            facts += (
                [f"takes {' and '.join(media.NAMES.get(each, each) for each in model['media'])}"]
                if model["media"]
                else []
            )
            facts += [f"{key} {model[key]}" for key in _DEFAULTS if model[key] is not None]
            click.echo(f"    {', '.join(facts)}")


_DEFAULTS = ("kv_key_bits", "kv_value_bits", "kv_layers", "n_ctx", "n_gpu_layers", "rpc")


def _facts(entry: registry.Entry) -> dict:
    """The entry with what its file says, or with why the file cannot say it."""
    facts = asdict(entry) | {
        "path": str(entry.path),
        "mmproj": entry.mmproj and str(entry.mmproj),
        "size": None,
        "architecture": None,
        "n_ctx_train": None,
    }
    try:
        model = gguf.read(entry.path)
    except KvsplitError as error:
        return facts | {"error": str(error)}
    return facts | {
        "size": model.size,
        "architecture": model.architecture,
        "n_ctx_train": model.n_ctx_train,
        "error": None,
    }
