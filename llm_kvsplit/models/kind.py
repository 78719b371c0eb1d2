"""What a GGUF file is, where it is not a language model."""

from .. import gguf


def other_than_language(model: gguf.Gguf) -> str | None:
    """What the file holds instead, as in "… is the projector for a model's images"; None for a language model."""
    if model.kind == "mmproj" or model.architecture == "clip":
        return "the projector for a model's images"
    if model.kind != "model":
        return f"a file of type {model.kind}"
    if not model.n_tensors or not model.layers:
        return "a vocabulary without a model"
    if not model.causal:
        return "a model that embeds text and does not write any"
    return None
