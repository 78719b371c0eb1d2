"""``llm kvsplit add``: register a GGUF file as a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .. import examine, gguf, media, registry
from ..errors import KvsplitError
from ..kvtypes import BITS, Cache, CachePair
from ..models import find
from ..models.place import Place, printable, without_ending
from ..options import layer_map, rpc_servers
from ..units import size

_bits = click.Choice([str(bits) for bits in BITS])


def registration(command: Callable) -> Callable:
    """The options of a command that registers a model."""
    for option in reversed([
        click.option("--name", help="Name for 'llm -m'; the file's own, in lower case, if not given."),
        click.option("-a", "--alias", "aliases", multiple=True, help="Another name for it; may be repeated."),
        click.option("--kv-key-bits", type=_bits, help="Bits of the keys in the KV cache, unless -o says otherwise."),
        click.option("--kv-value-bits", type=_bits, help="The same for the values."),
        click.option("--kv-layers", help="Bits by layer, such as 0-3:8/8,4-29:8/4, unless -o says otherwise."),
        click.option("--n-ctx", type=click.IntRange(1), help="Tokens of context; as many as needed if not given."),
        click.option("--n-gpu-layers", type=click.IntRange(-1), help="Layers to put on the GPU; -1 for all."),
        click.option("--rpc", help="Machines that hold layers: host:port of each, after commas, unless -o says otherwise."),
    ]):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("model")
@registration
@click.option("--mmproj", help="Projector for pictures or sound; the one beside MODEL if not given, 'none' for none.")
def command(model: str, name: str | None, aliases: tuple[str, ...], mmproj: str | None, **defaults: Any) -> None:
    """Register MODEL, a GGUF file or a name that 'llm kvsplit find' lists.

    A split model is registered by its first part. The file stays where it is.
    """
    place = _place(model)
    file = place.path if place else Path(model)
    if place and not place.name.lower().endswith(".gguf"):  # the program's own name says more than the file's
        name = name or without_ending(place.name).lower().replace(" ", "-")
    names = free_names(file.name, name, aliases)
    defaults |= {key: value for key, value in _defaults(place).items() if defaults[key] is None}
    header = register(file, names, **defaults, mmproj=mmproj)
    if place:
        _report_other_options(place, header, names[0], defaults)


def _place(model: str) -> Place | None:
    """Where another program keeps ``model``; None for a file, which goes first."""
    path = Path(model).expanduser()
    if not path.is_file():
        place = find.resolve(model)
        if place is None and not path.exists():
            raise KvsplitError(
                f"{model} is neither a file nor a name that 'llm kvsplit find' lists: check the spelling, or fetch it "
                "with 'llm kvsplit download'."
            )
        return place
    if not path.is_absolute() and not model.startswith("."):
        _warn_of_namesake(model, path)
    return None


def _warn_of_namesake(model: str, path: Path) -> None:
    try:
        namesake = find.resolve(model)
        if namesake is None or namesake.path.samefile(path):
            return
    except (KvsplitError, OSError):  # several, or one that went away
        pass
    click.echo(
        f"{model} is taken as the file of that name here; 'llm kvsplit find' lists another: "
        "give its whole name for that.",
        err=True,
    )


def _defaults(place: Place | None) -> dict[str, int]:
    """What the registry keeps of a program's options."""
    options = place.options if place else {}
    kept = {}
    for key, least in (("n_ctx", 1), ("n_gpu_layers", -1)):
        if type(options.get(key)) is int and options[key] >= least:
            kept[key] = options[key]
    return kept


def _report_other_options(place: Place, model: gguf.Gguf, name: str, defaults: dict) -> None:
    """Say which of the program's options were taken over, which llm can be given, and which it cannot."""
    kept = [f"{key} {value}" for key, value in _defaults(place).items() if defaults[key] == value]
    if kept:
        click.echo(f"{' and '.join(kept)}, as {place.program} has it.")
    for key, value in place.options.items():
        if key in defaults:
            continue
        text = _shell_word(value)
        if text is None:
            click.echo(f"{place.program} sets {key} to {json.dumps(value)}, which llm cannot keep for a model.")
        else:
            click.echo(f"{place.program} sets {key}; so does: llm models options set {shlex.quote(name)} {key} {text}")
    for note in place.notes:
        click.echo(printable(note))
    if model.chat_template is None:
        click.echo(f"Its file has no chat template: here it completes text, whatever {place.program} does with it.")


def _shell_word(value: object) -> str | None:
    """An option's value as a word for the shell; None for what is no single one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return shlex.quote(value) if value.isprintable() else None
    return json.dumps(value) if isinstance(value, int | float) else None


def free_names(file: str, name: str | None, aliases: tuple[str, ...]) -> tuple[str, ...]:
    """The name and aliases to register ``file`` under; KvsplitError if one is taken or cannot be a name."""
    import llm

    stem = gguf.PART.match(file)
    name = name or (stem["stem"] if stem else Path(file).stem).lower().replace(" ", "-")
    names = (name, *(alias for alias in aliases if alias != name))
    for each in names:
        registry.check_name(each)
    registry.check_free(names)
    others = llm.get_model_aliases().keys() | llm.get_embedding_model_aliases().keys()
    for each in names:
        if each in others:
            raise KvsplitError(f"llm already has a model called {each}: choose another name.")
    return names


def register(
    file: Path,
    names: tuple[str, ...],
    kv_key_bits: str | None,
    kv_value_bits: str | None,
    kv_layers: str | None,
    n_ctx: int | None,
    n_gpu_layers: int | None,
    rpc: str | None = None,
    sha256: str | None = None,
    source: str | None = None,
    mmproj: str | None = None,
) -> gguf.Gguf:
    """Check ``file``, add it to the registry, say how to use it, and return what its header says."""
    model = gguf.read(Path(file).expanduser().absolute())
    rpc_servers(rpc)
    if gguf.embeds(model):
        bits = bool(kv_key_bits or kv_value_bits or kv_layers is not None)
        if rpc:
            raise KvsplitError(f"{model.path} embeds texts, which this machine does alone: leave out --rpc.")
        _register_embedding(model, names, bits, n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, sha256=sha256, source=source)
        return model
    require_language_model(model)
    key_bits, value_bits = (int(bits) if bits else None for bits in (kv_key_bits, kv_value_bits))
    pair = CachePair.from_bits(key_bits or 16, value_bits or 16)
    cache: Cache = pair if kv_layers is None else layer_map(kv_layers, pair)
    if reason := gguf.refusal(model, cache):
        raise KvsplitError(f"{file} {reason}.")
    refuse_what_llama_cpp_cannot_load(model)
    projector = _projector(model, mmproj)
    takes = media.projector_takes(projector) if projector else ()
    registry.add(
        registry.Entry(
            names[0],
            model.path,
            names[1:],
            key_bits,
            value_bits,
            n_ctx,
            n_gpu_layers,
            sha256,
            source,
            kv_layers=kv_layers,
            rpc=rpc,
            mmproj=projector,
            media=takes,
        )
    )
    click.echo(
        f"Added {', '.join(names)}: {model.architecture}, {model.n_layer} layers, "
        f"trained for {model.n_ctx_train} tokens, {model.weights_text}, {size(model.size)}."
    )
    if projector:
        click.echo(f"It takes {' and '.join(media.NAMES[each] for each in takes)} through {projector.name}.")
    if n_ctx and n_ctx > model.n_ctx_train:
        click.echo(f"Its context of {n_ctx} is more than it was trained for: expect worse answers.", err=True)
    click.echo(f"Use it with: llm -m {names[0]} 'Say hello'")
    return model


def _projector(model: gguf.Gguf, given: str | None) -> Path | None:
    """The projector to use: the one given, else the only one beside the model that fits it, of which something is said.

    Raises KvsplitError for one that was given and does not fit.
    """
    if given == "none":
        return None
    if given is not None:
        path = Path(given).expanduser().absolute()
        if refusal := examine.projector_refusal(model.path, path):
            raise KvsplitError(refusal)
        return path
    beside = media.projectors_beside(model.path)
    if len(beside) > 1:
        listed = ", ".join(path.name for path in beside)
        click.echo(f"Several projectors lie beside it ({listed}): add it with --mmproj FILE to use one.", err=True)
    if len(beside) != 1:
        return None
    try:
        refusal = examine.projector_refusal(model.path, beside[0])
    except KvsplitError as error:
        refusal = error.message
    if refusal:
        click.echo(f"The projector beside it is not used: {refusal}", err=True)
    return None if refusal else beside[0]


def _register_embedding(model: gguf.Gguf, names: tuple[str, ...], bits: bool, **fields: Any) -> None:
    if reason := gguf.no_embeddings(model):
        raise KvsplitError(f"{model.path} is {reason}.")
    if bits:
        raise KvsplitError(f"{model.path} embeds texts and keeps no KV cache: leave out the bits.")
    refuse_what_llama_cpp_cannot_load(model)
    registry.add(registry.Entry(names[0], model.path, names[1:], embeds=True, **fields))
    click.echo(
        f"Added {', '.join(names)}: {model.architecture}, {model.n_layer} layers, vectors of {model.n_embd} values "
        f"for texts of up to {fields['n_ctx'] or model.n_ctx_train} tokens, {model.weights_text}, {size(model.size)}."
    )
    click.echo(f"Use it with: llm embed -m {names[0]} -c 'Say hello'")


def require_language_model(model: gguf.Gguf) -> None:
    """Raises KvsplitError for the GGUF files that hold something else."""
    if what := gguf.other_kind(model):
        raise KvsplitError(f"{model.path} is {what}: give the language model's own GGUF file.")


def refuse_what_llama_cpp_cannot_load(model: gguf.Gguf) -> None:
    """Raises KvsplitError where llama.cpp does not know the architecture or crashes, and warns of any other hindrance."""
    try:
        examination = examine.ask(model.path)
    except KvsplitError:
        return  # without a library llama.cpp cannot be asked; a prompt will say what to do about that
    refusal = examination.refusal
    if examination.crashed:
        raise KvsplitError(
            f"{model.path} is damaged: llama.cpp crashed on it, and would end every question; get the file anew."
        )
    if refusal and "unknown model architecture" in refusal:
        raise KvsplitError(
            f"{model.path} is not a language model that llama.cpp knows (architecture {model.architecture}): use a newer "
            "llama.cpp, or give a model of another architecture."
        )
    if refusal:
        click.echo(f"Warning: llama.cpp cannot load it: {refusal}.", err=True)
