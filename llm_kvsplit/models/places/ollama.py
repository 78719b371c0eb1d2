"""Ollama: manifests/HOST/NAMESPACE/MODEL/TAG, JSON that names blobs/sha256-…, one of which is the GGUF file.

OLLAMA_MODELS moves the folder, for the server, so the usual ones are read in any case: ~/.ollama/models, and for
the service on Linux /usr/share/ollama/.ollama/models. Source: envconfig/config.go, manifest/, types/model/name.go,
server/images.go, server/download.go and docs/faq.mdx of Ollama. /var/lib/ollama may be the folder of Arch Linux's
package. Read, not met. Ollama's desktop app can move the folder, too, in a database that is not read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..browse import begins_like_gguf, children, home, read_json, read_text
from ..place import Fault, Place

PROGRAM = "Ollama"

_LAYER = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")

#: Ollama's parameter -> the option of this plugin that means the same.
OPTIONS = {
    "num_ctx": "n_ctx",
    "num_gpu": "n_gpu_layers",
    "num_predict": "max_tokens",
    "num_thread": "n_threads",
    **{
        each: each
        for each in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty",
                     "frequency_penalty", "seed", "stop")
    },
}  # fmt: skip


#: Where the service keeps them on Linux.
SERVICE = (Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama"))


def folders() -> list[Path]:
    usual = [home() / ".ollama/models", *(SERVICE if sys.platform.startswith("linux") else ())]
    if moved := os.environ.get("OLLAMA_MODELS"):
        usual.insert(0, Path(moved))
    return list(dict.fromkeys(usual))


def places() -> Iterator[Place | Fault]:
    for folder in folders():
        yield from places_in(folder)


def places_in(folder: Path) -> Iterator[Place | Fault]:
    for manifest in children(folder / "manifests", 4):
        if isinstance(manifest, Fault):
            yield manifest
        elif not manifest.name.startswith("."):  # macOS leaves .DS_Store everywhere
            yield from _model(folder, manifest)
    for blob in children(folder / "blobs"):
        if isinstance(blob, Fault):
            yield blob
        elif blob.name.endswith("-partial") and begins_like_gguf(blob):
            yield Fault(blob, "is an unfinished download")


def _model(folder: Path, file: Path) -> Iterator[Place | Fault]:
    """The model of one manifest; none where it holds no GGUF file (models in the cloud, safetensors)."""
    manifest = read_json(file)
    if isinstance(manifest, Fault):
        yield manifest
        return
    layers = _layers(folder, manifest or {})
    if layers is None:
        yield Fault(file, "cannot be read (it is no manifest of Ollama)")
        return
    if "model" not in layers:
        return
    name, short = _names(file)
    if not os.path.isfile(layers["model"]):
        yield Fault(layers["model"], f"is not there or may not be read, though Ollama lists it as {name}")
        return
    parameters = read_json(layers["params"]) if "params" in layers else None
    if isinstance(parameters, Fault):
        yield parameters
        parameters = None
    options, unused = _options(parameters or {})
    notes = [f"Ollama adds {what}, which is not done here." for kind, what in _MORE.items() if kind in layers]
    if unused:
        notes.append(f"Ollama's {', '.join(unused)} cannot be set here.")
    system = read_text(layers["system"]) if "system" in layers else None
    if isinstance(system, Fault):
        yield system
    elif system:
        notes.append(f"Ollama gives it the system prompt {_short(system)!r}: llm does that with -s.")
    yield Place(PROGRAM, name, layers["model"], short, options, tuple(notes))


#: Layers that change what the model answers.
_MORE = {"adapter": "an adapter (LoRA)", "messages": "the beginning of a conversation"}


def _layers(folder: Path, manifest: dict) -> dict[str, Path] | None:
    """Kind of layer -> its blob; None for what is no manifest."""
    layers: dict[str, Path] = {}
    try:
        for layer in manifest.get("layers") or ():
            kind, digest = layer["mediaType"], layer["digest"]
            if kind.startswith(_LAYER) and _DIGEST.fullmatch(digest):
                layers.setdefault(kind.removeprefix(_LAYER), folder / "blobs" / digest.replace(":", "-"))
    except (TypeError, KeyError, AttributeError):
        return None
    return layers


def _names(manifest: Path) -> tuple[str, tuple[str, ...]]:
    """What Ollama shows, and what it takes for it besides."""
    host, namespace, model, tag = manifest.parts[-4:]
    if host.lower() != "registry.ollama.ai":
        model = f"{host}/{namespace}/{model}"
    elif namespace.lower() != "library":
        model = f"{namespace}/{model}"
    return f"{model}:{tag}", (model,)


def _options(parameters: dict) -> tuple[dict[str, Any], list[str]]:
    """The parameters as options of this plugin, and the names of those that are none."""
    options: dict[str, Any] = {}
    unused = []
    for name, value in parameters.items():
        if name not in OPTIONS or value is None:
            unused.append(str(name))
        elif not (isinstance(value, int) and value < 0 and name in ("num_predict", "seed", "num_thread")):
            options[OPTIONS[name]] = value  # a negative one means the default, there
    return options, unused


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "…"
