"""What a measurement was made on: the part of a results file that is not numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import backend, demo, files
from ..sessions import fingerprint

if TYPE_CHECKING:
    from .target import Target


def describe(target: "Target", text: Path | None, threads: int, seed: int) -> dict[str, Any]:
    """Model, text, machine, backend and settings; files are named by their SHA-256, and the machine not at all."""
    from ..engine import library

    header = target.header
    chosen = backend.current()
    info = library.kvsplit_info()
    return {
        "made_by": f"llm-kvsplit {version('llm-kvsplit')}",
        "model": {
            "name": target.name,
            "sha256": fingerprint.file_sha256(target.path),
            "architecture": header.architecture,
            "weights": header.weights_text,
            "file_bytes": header.size,
            "layers": header.n_layer,
            "heads": header.n_head,
            "kv_heads": list(header.n_head_kv),
            "head_dim_k": header.head_dim_k,
            "head_dim_v": header.head_dim_v,
            "n_ctx_train": header.n_ctx_train,
        },
        "text": {"name": text.name if text else "bundled", "sha256": files.sha256(text or demo.SMOKE_TEXT)},
        "machine": _machine() | {"devices": [d["description"] for d in library.devices() if d["type"] != "cpu"]},
        "backend": {
            "id": chosen.id,
            "bindings": backend.bindings_version(),
            "patches": info["features"] if info else [],
        },
        "settings": {"threads": threads, "seed": seed},
    }


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, subprocess.SubprocessError):
        return platform.processor() or platform.machine()
