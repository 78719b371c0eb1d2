"""Ask llama.cpp about a GGUF file: whether it can load it, and what its KV cache takes.

It is asked without the model's memory (``fit.simulation``), and in a child process: on some damaged files llama.cpp ends
the process it runs in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import kvtypes, media
from .errors import KvsplitError

#: A vocabulary of 262,144 tokens takes half a second, a large encoder some seconds on a CPU.
_SECONDS = 120


@dataclass(frozen=True)
class Cache:
    """A KV cache that llama.cpp would allocate."""

    #: What it stores keys and values in, as ``kvtypes.parse`` reads it.
    types: str
    #: As many as asked for, rounded up as llama.cpp does.
    n_ctx: int
    #: None where llama.cpp refuses, for the reason in ``refusal``.
    bytes: int | None
    refusal: str | None = None


@dataclass(frozen=True)
class Examination:
    #: Why llama.cpp cannot load the file, in its own words; None if it can.
    refusal: str | None
    caches: tuple[Cache, ...] = ()
    #: It ended the process that asked it, as it would end one that answers.
    crashed: bool = False


def ask(path: Path, caches: Sequence[kvtypes.Cache] = (), lengths: Sequence[int] = ()) -> Examination:
    """Whether llama.cpp loads ``path``, and each of ``caches`` at each length.

    Raises KvsplitError when there is no library to ask.
    """
    request = {"path": str(path), "caches": list(map(str, caches)), "lengths": list(lengths)}
    return _asked(request)


def projector_refusal(path: Path, projector: Path) -> str | None:
    """Why ``projector`` cannot be used with the model ``path``, in a sentence; None if it can.

    It is loaded, and reads a small picture and a second of silence. Raises KvsplitError when there is no library to ask, and
    for a file that its header shows to be no projector.
    """
    media.projector_takes(projector)
    refusal = _asked({"path": str(path), "caches": [], "lengths": [], "projector": str(projector)}).refusal
    return refusal and (refusal if refusal.endswith(".") else f"{projector} cannot be used: {refusal}.")


def _asked(request: dict[str, Any]) -> Examination:
    # Without GGML_NO_BACKTRACE, ggml starts a debugger before it aborts.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, "-m", "llm_kvsplit.examine"]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Examination(f"it took more than {_SECONDS} s to read it")
    if child.returncode < 0:
        return Examination(f"it crashed on it ({signal.Signals(-child.returncode).name})", crashed=True)
    if child.returncode != 0:
        words = child.stderr.strip().splitlines()
        raise KvsplitError(words[-1].removeprefix("Error: ") if words else f"exit code {child.returncode}")
    reply = json.loads(child.stdout.splitlines()[-1])
    return Examination(reply["refusal"], tuple(Cache(**cache) for cache in reply["caches"]))


def _examined(request: dict[str, Any]) -> Examination:
    from . import fit
    from .engine.projector import Projector, ProjectorError, ProjectorOptions
    from .engine.weights import LoadError, LoadOptions

    try:
        with fit.simulation(LoadOptions(Path(request["path"]))) as weights:
            if "projector" in request:
                projector = Projector(weights, ProjectorOptions(Path(request["projector"]), use_gpu=False))
                projector.try_out()
                projector.close()
            caches = map(kvtypes.parse, request["caches"])
            return Examination(
                None, tuple(_cache(weights, cache, n_ctx) for cache in caches for n_ctx in request["lengths"])
            )
    except LoadError as error:
        return Examination(error.cause)
    except ProjectorError as error:
        return Examination(error.message)


def _cache(weights: Any, cache: kvtypes.Cache, n_ctx: int) -> Cache:
    from . import fit
    from .engine import layer_types
    from .engine.context import ContextError

    try:
        taken = fit.footprint(weights, cache, n_ctx)
    except (ContextError, layer_types.Refused) as error:
        return Cache(str(cache), n_ctx, None, error.cause)
    return Cache(str(cache), taken.n_ctx, taken.kv)


def main() -> None:
    try:
        examination = _examined(json.load(sys.stdin))
    except KvsplitError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(asdict(examination)))


if __name__ == "__main__":
    main()
