"""``llm kvsplit info``: what a GGUF says about its model, and what its KV cache takes."""

import json
from collections import Counter
from pathlib import Path

import click

from .. import gguf, registry
from ..errors import KvsplitError
from ..kvtypes import CachePair
from ..units import size

PAIRS = [CachePair.from_bits(*bits) for bits in ((16, 16), (8, 8), (8, 5), (8, 4), (5, 5), (4, 8), (4, 4))]


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(model, as_json):
    """Show what the file of MODEL says: its shape, and its KV cache in each configuration.

    MODEL is a registered name or a GGUF file.
    """
    entry = registry.get(model)
    if not entry and not Path(model).exists():
        raise KvsplitError(f"{model} is neither a registered model nor a file: `llm kvsplit models` lists the models.")
    read = gguf.read(entry.path if entry else Path(model))
    facts = describe(read)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return

    click.echo(f"{read.path}")
    for label, text in (
        ("name", read.name or "not stated"),
        ("architecture", read.architecture),
        ("weights", f"{read.weights or 'none'}, {size(read.size)}"),
        ("layers", read.n_layer),
        ("heads", f"{read.n_head}, of them for keys and values {_counts(read.n_head_kv)}"),
        ("head dims", f"keys {_counts(each.head_dim_k for each in read.layers)}, "
                      f"values {_counts(each.head_dim_v for each in read.layers)}"),
        ("trained context", f"{read.n_ctx_train} tokens"),
        ("chat template", "yes" if read.chat_template else "no: it completes text"),
    ):  # fmt: skip
        click.echo(f"  {label:16} {text}")
    if facts["kv_cache"]:
        click.echo(f"\n  KV cache  {'a token':>12}  {f'{read.n_ctx_train} tokens':>16}")
    for row in facts["kv_cache"]:
        taken = "not possible" if row["refused"] else f"{size(row['bytes_per_token']):>12}  {size(row['bytes']):>16}"
        click.echo(f"  {row['pair']:8}  {taken:>12}")
    for note in facts["notes"]:
        click.echo(f"\n  {note}")


def describe(model: gguf.Gguf) -> dict:
    """The same as data; bytes are None, and ``notes`` say why, where the header does not settle them."""
    rows = []
    for pair in PAIRS:
        per_token = gguf.kv_bytes_per_token(model, pair.k, pair.v)
        if per_token:
            rows.append({
                "pair": str(pair),
                "key_bits": pair.k.bits,
                "value_bits": pair.v.bits,
                "bytes_per_token": per_token,
                "bytes": per_token * model.n_ctx_train,
                "refused": gguf.refusal(model, pair.k, pair.v),
            })  # fmt: skip
    return {
        "path": str(model.path),
        "files": [str(file) for file in model.files],
        "size": model.size,
        "name": model.name,
        "architecture": model.architecture,
        "weights": model.weights,
        "n_layer": model.n_layer,
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_head_kv": list(model.n_head_kv),
        "head_dim_k": [layer.head_dim_k for layer in model.layers],
        "head_dim_v": [layer.head_dim_v for layer in model.layers],
        "n_ctx_train": model.n_ctx_train,
        "sliding_window": model.sliding_window,
        "chat_template": model.chat_template is not None,
        "kv_cache": rows,
        "notes": _notes(model),
    }


def _notes(model: gguf.Gguf) -> list[str]:
    notes = []
    if model.unmodelled:
        notes.append(f"The size of its KV cache is not known here: it has {model.unmodelled}.")
    elif not any(model.n_head_kv):
        notes.append("It has no KV cache: its state has the same size for any number of tokens.")
    elif model.recurrent:
        notes.append("Its recurrent layers keep a state of fixed size besides, which is not counted.")
    if model.sliding_window:
        notes.append(
            f"Layers with its sliding window of {model.sliding_window} tokens are counted in full: "
            "a cache that keeps only the window takes less."
        )
    if model.mla:
        notes.append("Multi-head latent attention: only keys are cached, and both sides must have the same bits.")
    return notes


def _counts(values) -> str:
    """4, or for layers that differ: 8 (25 layers), 2 (5 layers)."""
    counts = Counter(values)
    if len(counts) < 2:
        return str(next(iter(counts), 0))
    return ", ".join(f"{value} ({n} layers)" for value, n in counts.items())
