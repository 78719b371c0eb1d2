"""``llm kvsplit info``: what a GGUF says about its model, and what its KV cache takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import click

from .. import examine, gguf
from ..bench import subject
from ..errors import KvsplitError
from ..kvtypes import LADDER, Cache, CachePair, LayerMap
from ..units import size

#: Tokens of a usual conversation; the other column is what the model was trained for.
USUAL = 4096


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(model: str, as_json: bool) -> None:
    """Show what the file of MODEL says: its shape, and its KV cache in each configuration.

    MODEL is a registered name or a GGUF file. llama.cpp says what it would allocate; nothing is loaded.
    """
    named = subject.named(model)
    header = named.header
    facts = describe(header, named.layer_map)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return

    click.echo(f"{header.path}")
    for label, text in (
        ("name", header.name or "not stated"),
        ("architecture", header.architecture),
        ("weights", f"{header.weights_text}, {size(header.size)}"),
        ("layers", header.n_layer),
        ("heads", f"{header.n_head}, of them for keys and values {_counts(header.n_head_kv)}"),
        ("head dims", f"keys {_counts(each.head_dim_k for each in header.layers)}, "
                      f"values {_counts(each.head_dim_v for each in header.layers)}"),
        ("trained context", f"{header.n_ctx_train} tokens"),
        ("chat template", "yes" if header.chat_template else "no: it completes text"),
    ):  # fmt: skip
        click.echo(f"  {label:16} {text}")
    if facts["kv_cache"]:
        titles = [f"{n_ctx} tokens" for n_ctx in facts["kv_cache"][0]["bytes_at"]]
        click.echo(f"\n  KV cache  {'a token':>12}" + "".join(f"  {title:>16}" for title in titles))
    for row in facts["kv_cache"]:
        if row["key_bits"] is None:  # a layer map is longer than any column
            click.echo(f"  {row['pair']}, as registered")
        click.echo(f"  {row['pair'] if row['key_bits'] else '':8}  {_cells(row)}")
    for note in facts["notes"]:
        click.echo(f"\n  {note}")


def _cells(row: dict) -> str:
    if row["refused"]:
        return f"not possible: it {row['refused']}"
    if row["bytes"] is None:
        return f"{'not known':>12}"
    per_token = row["bytes_per_token"]
    cells = [f"{'varies' if per_token is None else size(per_token):>12}"]
    return "".join(cells + [f"  {size(taken):>16}" for taken in row["bytes_at"].values()])


def describe(model: gguf.Gguf, layer_map: LayerMap | None = None) -> dict:
    """The same as data, with a row for the map that it is registered with. Bytes are None, or ``kv_cache`` is empty, for a reason that ``notes`` give."""
    rows, notes = _kv_cache(model, [*LADDER, layer_map] if layer_map else LADDER)
    return {
        "path": str(model.path),
        "files": [str(file) for file in model.files],
        "size": model.size,
        "name": model.name,
        "architecture": model.architecture,
        "file_type": model.file_type,
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
        "notes": notes,
    }


def _kv_cache(model: gguf.Gguf, wanted: Sequence[Cache]) -> tuple[list[dict], list[str]]:
    """A row for each cache, and notes on them."""
    if what := gguf.other_kind(model):
        use = "; 'llm embed' can use it" if gguf.no_embeddings(model) is None else ""
        return [], [f"It is {what}{use}."]
    refusals = {cache: gguf.refusal(model, cache) for cache in wanted}
    lengths = _lengths(model.n_ctx_train)
    caches: Sequence[examine.Cache] = ()
    notes = []
    try:
        examination = examine.ask(model.path, [cache for cache in wanted if not refusals[cache]], lengths)
        caches = examination.caches
        if examination.refusal:
            notes.append(
                f"The size of its KV cache is not known, since llama.cpp cannot load the file: {examination.refusal}."
            )
    except KvsplitError as error:
        notes.append(f"The size of its KV cache is not known, since llama.cpp cannot be asked: {error}")
    if caches and all(cache.bytes == 0 for cache in caches):
        return [], ["It has no KV cache: its state has the same size for any number of tokens."]
    rows = [_row(cache, refusals[cache], caches, lengths) for cache in wanted]
    return rows, notes + _notes(model, rows)


def _lengths(n_ctx_train: int) -> list[int]:
    """Two lengths to ask for: a usual one, or half of the trained one where that is no longer, and the trained one."""
    return [min(USUAL, max(1, n_ctx_train // 2)), max(1, n_ctx_train)]


def _row(wanted: Cache, refused: str | None, caches: Sequence[examine.Cache], lengths: list[int]) -> dict:
    own = [cache for cache in caches if cache.types == str(wanted)]
    refused = refused or next((f"is refused by llama.cpp ({cache.refusal})" for cache in own if cache.refusal), None)
    taken = [cache.bytes for cache in own] if own and not refused else [None] * len(lengths)
    pair = wanted if isinstance(wanted, CachePair) else None
    per_token = {cache.bytes / cache.n_ctx for cache in own if cache.bytes is not None}
    return {
        "pair": str(wanted),
        "key_bits": pair.k.bits if pair else None,
        "value_bits": pair.v.bits if pair else None,
        # None where another token does not always take the same: layers with a sliding window stop growing.
        "bytes_per_token": per_token.pop() if len(per_token) == 1 and not refused else None,
        "bytes": taken[-1],
        "bytes_at": dict(zip(map(str, lengths), taken)),
        "refused": refused,
    }


def _notes(model: gguf.Gguf, rows: list[dict]) -> list[str]:
    notes = []
    if model.recurrent:
        notes.append("Its recurrent layers keep a state of fixed size besides, which is not counted.")
    if model.sliding_window and any(row["bytes"] and row["bytes_per_token"] is None for row in rows):
        notes.append(
            f"Layers with a sliding window keep its {model.sliding_window} tokens and a batch of 512, "
            "so the cache does not grow by the same for each token."
        )
    if model.mla:
        notes.append("Multi-head latent attention: only keys are cached, and both sides must have the same bits.")
    return notes


def _counts(values: Iterable[int]) -> str:
    """4, or for layers that differ: 8 (25 layers), 2 (5 layers)."""
    counts = Counter(values)
    if len(counts) < 2:
        return str(next(iter(counts), 0))
    return ", ".join(f"{value} ({n} layers)" for value, n in counts.items())
