"""``llm kvsplit add``: register a GGUF file as a model."""

from collections.abc import Callable
from pathlib import Path

import click

from .. import examine, gguf, registry
from ..errors import KvsplitError
from ..kvtypes import BITS, from_bits
from ..units import size

_bits = click.Choice([str(bits) for bits in BITS])


def registration(command: Callable) -> Callable:
    """The options of a command that registers a model."""
    for option in reversed([
        click.option("--name", help="Name for `llm -m`; the file's own, in lower case, if not given."),
        click.option("-a", "--alias", "aliases", multiple=True, help="Another name for it; may be repeated."),
        click.option("--kv-key-bits", type=_bits, help="Bits of the keys in the KV cache, unless -o says otherwise."),
        click.option("--kv-value-bits", type=_bits, help="The same for the values."),
        click.option("--n-ctx", type=click.IntRange(1), help="Tokens of context; as many as needed if not given."),
        click.option("--n-gpu-layers", type=click.IntRange(-1), help="Layers to put on the GPU; -1 for all."),
    ]):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@registration
def command(file, name, aliases, **defaults):
    """Register the GGUF FILE as a model of its own name.

    A split model is registered by its first part. The file stays where it is.
    """
    names = free_names(file.name, name, aliases)
    register(file, names, **defaults)


def free_names(file: str, name: str | None, aliases: tuple[str, ...]) -> tuple[str, ...]:
    """The name and aliases to register ``file`` under; KvsplitError if one is taken or cannot be a name."""
    import llm

    stem = gguf.PART.match(file)
    name = name or (stem["stem"] if stem else Path(file).stem).lower().replace(" ", "-")
    names = (name, *(alias for alias in aliases if alias != name))
    for each in names:
        registry.check_name(each)
    registry.check_free(names)
    others = llm.get_model_aliases()
    for each in names:
        if each in others:
            raise KvsplitError(f"llm already has a model called {each}: choose another name.")
    return names


def register(
    file: Path,
    names: tuple[str, ...],
    kv_key_bits: str | None,
    kv_value_bits: str | None,
    n_ctx: int | None,
    n_gpu_layers: int | None,
    sha256: str | None = None,
    source: str | None = None,
) -> None:
    """Check ``file``, add it to the registry and say how to use it."""
    model = gguf.read(Path(file).expanduser().absolute())
    require_language_model(model)
    key_bits, value_bits = (bits and int(bits) for bits in (kv_key_bits, kv_value_bits))
    if refused := gguf.refusal(model, from_bits(key_bits or 16), from_bits(value_bits or 16)):
        raise KvsplitError(f"{file} {refused}.")
    refuse_what_llama_cpp_cannot_load(model)
    registry.add(
        registry.Entry(names[0], model.path, names[1:], key_bits, value_bits, n_ctx, n_gpu_layers, sha256, source)
    )
    click.echo(
        f"Added {', '.join(names)}: {model.architecture}, {model.n_layer} layers, "
        f"trained for {model.n_ctx_train} tokens, {model.weights_text}, {size(model.size)}."
    )
    if n_ctx and n_ctx > model.n_ctx_train:
        click.echo(f"Its context of {n_ctx} is more than it was trained for: expect worse answers.", err=True)
    click.echo(f"Use it with: llm -m {names[0]} 'Say hello'")


def require_language_model(model: gguf.Gguf) -> None:
    """Raises KvsplitError for the GGUF files that hold something else."""
    if what := gguf.other_kind(model):
        raise KvsplitError(f"{model.path} is {what}: give the language model's own GGUF file.")


def refuse_what_llama_cpp_cannot_load(model: gguf.Gguf) -> None:
    """Raises KvsplitError for an architecture that this llama.cpp does not know, and warns of any other hindrance."""
    try:
        refused = examine.ask(model.path).refused
    except KvsplitError:
        return  # without a library there is nobody to ask; a prompt will say what to do about that
    if refused and "unknown model architecture" in refused:
        raise KvsplitError(
            f"{model.path} is not a language model that llama.cpp knows (architecture {model.architecture}): use a newer "
            "llama.cpp, or give a model of another architecture."
        )
    if refused:
        click.echo(f"Warning: llama.cpp cannot load it: {refused}.", err=True)
