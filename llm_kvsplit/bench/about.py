"""What a measurement was made on: the part of a results file that is not numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import demo, files, machine
from ..builds import choice, shelf
from ..sessions import fingerprint

if TYPE_CHECKING:
    from .subject import Subject


def describe(subject: Subject, text: Path | None, threads: int, seed: int) -> dict[str, Any]:
    """Model, text, machine, library and settings. Files are named by their SHA-256; the machine has no name."""
    from ..engine import library

    header = subject.header
    chosen = choice.current()
    info = library.kvsplit_info()
    return {
        "made_by": f"llm-kvsplit {version('llm-kvsplit')}",
        "model": {
            "name": subject.name,
            "sha256": fingerprint.file_sha256(subject.path),
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
            "bindings": shelf.bindings_version(),
            # A build is used through its own definitions, and may be of another llama.cpp than llama-cpp-python.
            "upstream": (chosen.manifest or {}).get("upstream_commit") if chosen.bindings else None,
            "patches": info["features"] if info else [],
        },
        "settings": {"threads": threads, "seed": seed},
    }


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "cpu": machine.cpu_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
