"""How ``llama-server`` is started: its arguments, its list of models where there are several, its environment.

This process becomes the server, so whatever ends the one ends the other. A watcher that is left beside it reads its log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .. import endpoints, files, machine
from ..errors import KvsplitError
from ..kvtypes import Cache, CachePair, LayerMap
from ..options import rpc_servers
from ..paths import cache_dir
from ..units import size
from .plan import Served

#: Most memory, in MiB, for conversations that have left the cache (llama-server's own default).
_CACHE_RAM = 8192
#: What a person's environment must not add: other models than those that were asked for.
_FOREIGN = (
    "LLAMA_ARG_MODEL",
    "LLAMA_ARG_MODEL_URL",
    "LLAMA_ARG_HF_REPO",
    "LLAMA_ARG_DOCKER_REPO",
    "LLAMA_ARG_MODELS_DIR",
    "LLAMA_ARG_MODELS_PRESET",
)


@dataclass(frozen=True)
class Settings:
    """What holds for the whole server."""

    host: str
    port: int
    api_key: str | None
    threads: int | None
    #: Where clients may save the states of slots; None forbids it.
    slots: Path | None
    #: The folder to serve in the place of the page that is compiled in, if any.
    page: Path | None
    verbose: bool

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.port}"


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises KvsplitError where nothing can listen there."""
    try:
        return endpoints.free_port(host, port)
    except OSError as error:
        raise KvsplitError(
            f"Nothing can listen on port {port} of {host} ({error.strerror}): choose another --port or --host."
        ) from None


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def model_options(planned: Served, settings: Settings, repack: bool, cache_ram: int) -> dict[str, str]:
    """llama-server's options for one model, without their dashes; "true" for those that take no value."""
    entry = planned.entry
    options = {
        "model": str(entry.path.absolute()),
        "tags": ",".join(tags(planned)),
        **cache_options(planned.cache),
        "ctx-size": str(planned.total),
        "parallel": str(planned.users),
        "kv-unified": "true",
        "cache-ram": str(cache_ram),
        "threads": str(settings.threads or machine.physical_cores()),
    }
    if entry.mmproj:
        options["mmproj"] = str(entry.mmproj.absolute())
    if servers := rpc_servers(entry.rpc):
        options["rpc"] = ",".join(servers)
    if entry.n_gpu_layers is not None:
        options["n-gpu-layers"] = "all" if entry.n_gpu_layers < 0 else str(entry.n_gpu_layers)
    if not repack:
        options["no-repack"] = "true"
    return options


def cache_options(cache: Cache) -> dict[str, str]:
    """The series' options for bits and layer maps, and llama.cpp's own for a type that no number of bits names."""
    if isinstance(cache, LayerMap):
        return {"kvq-layers": str(cache)}
    options = {}
    for bits_option, name_option, kind in (("kvq-key", "cache-type-k", cache.k), ("kvq-val", "cache-type-v", cache.v)):
        text = str(kind)
        options[bits_option if text.isdecimal() else name_option] = text
    return options


def tags(planned: Served) -> list[str]:
    """The cache and its bytes, for llama-server's list of models. llama.cpp's page shows them beside the name: be short."""
    cache = str(planned.cache).replace(",", " ")  # a comma parts tags
    if isinstance(planned.stored, CachePair) and planned.stored.quantized:
        cache += f" {planned.stored.k.name}/{planned.stored.v.name}"
    return [cache, size(planned.footprint.kv)]


def arguments(program: Path, planned: Sequence[Served], settings: Settings, repack: bool, memory: int) -> list[str]:
    """The command line; a list of several models is written into the cache folder. Raises KvsplitError."""
    taken = sum(each.footprint.total for each in planned)
    cache_ram = max(0, min(_CACHE_RAM, (memory - taken) // 2**21 // len(planned)))
    options = {
        "host": settings.host,
        "port": str(settings.port),
        "metrics": "true",
        # Else any page in a browser could ask, and read what is answered.
        "cors-origins": "localhost",
        "ui-config": json.dumps({"showModelTags": True}),
        "offline": "true",
    }
    if settings.slots:
        options["slot-save-path"] = str(settings.slots.absolute())
    if settings.page:
        options["path"] = str(settings.page)
    if not settings.verbose:
        options["log-verbosity"] = "1"
    each = {one.name: model_options(one, settings, repack, cache_ram) for one in planned}
    if len(planned) == 1:
        # One name only: llama-server calls a model by the first of its aliases in the order of the alphabet.
        options |= {**each[planned[0].name], "alias": planned[0].name}
    else:
        options |= {"models-preset": str(_write_preset(planned, each, settings.port)), "models-max": str(len(planned))}
    words = [[f"--{name}"] if value == "true" else [f"--{name}", value] for name, value in options.items()]
    return [str(program), *(word for pair in words for word in pair)]


def _write_preset(planned: Sequence[Served], options: Mapping[str, dict[str, str]], port: int) -> Path:
    """llama-server's list of several models, in its form (common/preset.cpp): a section for each."""
    sections = []
    for each in planned:
        lines = {**options[each.name], "load-on-startup": "true"}
        aliases = list(each.entry.aliases) if each.name == each.entry.name else []
        if ":" in each.name:  # llama-server writes what follows in capitals
            aliases.append(each.name)
        if aliases:
            lines["alias"] = ",".join(aliases)
        for text in (each.name, *lines.values()):
            if unreadable := next((mark for mark in ";#]\n\r" if mark in text), None):
                raise KvsplitError(
                    f"{each.name} cannot be served beside others: llama-server's list of models cannot have "
                    f"{unreadable!r} in {text!r}; serve it alone, or register it anew without that."
                )
        sections.append(f"[{each.name}]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))
    file = _folder(port) / "models.ini"
    try:
        files.write_whole(file, "\n".join(sections))
    except OSError as error:
        raise KvsplitError(f"{file} cannot be written ({error.strerror}): check its folder.") from None
    return file


def environment(settings: Settings) -> dict[str, str]:
    """The person's, so that ``LLAMA_ARG_…`` may add what is not given here, without what would add other models."""
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # llama-server lists what others have downloaded as well; an empty folder in the place of that.
    own["LLAMA_CACHE"] = str(_folder(settings.port) / "downloads")
    if settings.api_key:
        own["LLAMA_API_KEY"] = settings.api_key
    return own


def become(command: Sequence[str], planned: Sequence[Served], settings: Settings) -> NoReturn:
    """Turn this process into the server. A watcher stays beside it, see ``watcher.py``, and ends with it."""
    own = environment(settings)
    reading, writing = os.pipe()
    names = [each.name for each in planned]
    task: dict[str, Any] = {"url": settings.url, "models": names, "verbose": settings.verbose}
    # In a session of its own: Ctrl-C is for the server, and the watcher sees it end.
    subprocess.Popen(
        [sys.executable, "-m", "llm_kvsplit.serve.watcher", json.dumps(task)],
        stdin=reading,
        env=own,
        start_new_session=True,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (writing, 1), (writing, 2)):
        os.dup2(ours, theirs)
    os.execve(command[0], list(command), own)


def _folder(port: int) -> Path:
    return cache_dir() / "serve" / str(port)
