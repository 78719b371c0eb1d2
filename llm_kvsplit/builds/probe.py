"""Try a library in a child process before this one loads it.

A library built for another CPU ends its process with "Illegal instruction" and nothing else. And where GCC (seen with
12.2) drops half of the stores that configure the CPU's AMX tiles, ggml dies the same way in the first product with a
quantized weight, while everything else works (llama.cpp#26954, and ``amx-tile-config.patch`` of the series). So two
trials are made, once for each library and CPU: the demo model as it is, and quantized to q8_0. When only the second
dies, models are loaded without ggml's extra buffer types, which is slower for quantized weights and right.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import files, machine
from ..paths import cache_dir
from . import interface
from .shelf import Build, bindings_version, custom, misfit, stock_folder

#: Counts up when the trials change, so that old results are not believed.
_VERSION = 1
#: Set in the child, which must not try itself.
_CHILD = "KVSPLIT_PROBE_CHILD"


@dataclass(frozen=True)
class Result:
    usable: bool
    #: How the library ended the trial that it failed.
    reason: str = ""
    #: Whether ggml's repacked and AMX buffers may be used.
    extra_bufts: bool = True


def result(chosen: Build) -> Result:
    """The remembered result for this library on this CPU, or a new trial."""
    if os.environ.get(_CHILD):
        return Result(usable=True)
    if reason := misfit(chosen):
        return Result(usable=False, reason=reason)
    file = cache_dir() / "probes" / f"{_trial_key(chosen)}.json"
    try:
        return Result(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    outcome = _try(chosen)
    files.write_cached(file, json.dumps(asdict(outcome)))
    return outcome


def fault_of(folder: Path) -> str:
    """How a library in a folder fails to answer on this machine, as the rest of "It cannot be used: …", or nothing."""
    build = custom(folder)
    return misfit(build) or _run(build, "plain")


def _try(chosen: Build) -> Result:
    reason = _run(chosen, "plain")
    if reason:
        return Result(usable=False, reason=reason)
    return Result(usable=True, extra_bufts=not _run(chosen, "quantized"))


def _run(chosen: Build, trial: str) -> str:
    """Run one trial; say how it failed, or nothing."""
    environment = {**os.environ, _CHILD: "1"}
    if chosen.folder is not None:
        environment["LLAMA_CPP_LIB_PATH"] = str(chosen.folder)
    child = subprocess.run(
        [sys.executable, "-m", "llm_kvsplit.engine.trial", trial], env=environment, capture_output=True, text=True
    )
    if child.returncode == 0:
        return ""
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = "it uses instructions that this CPU lacks" if name == "SIGILL" else "it crashed"
        return f"{hint} ({name})"
    lines = child.stderr.strip().splitlines()
    return lines[-1].removesuffix(".") if lines else f"exit code {child.returncode}"


def _trial_key(chosen: Build) -> str:
    """Changes with the definitions that the library is loaded through, too, where they are not its own."""
    if chosen.bindings:
        return key(chosen)
    return f"{key(chosen)}-{bindings_version()}-{interface.digest()}"


def key(chosen: Build) -> str:
    """Changes with the library's files and with the CPU."""
    digest = hashlib.sha256(f"{_VERSION} {platform.machine()} {machine.cpu_flags()}".encode())
    for file in sorted(_libraries(chosen)):
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _libraries(chosen: Build) -> list[Path]:
    folder = chosen.folder or stock_folder()
    return [file for file in folder.resolve().glob("*") if file.is_file()] if folder else []
