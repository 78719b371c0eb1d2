"""Which model a file is, without reading all of it for every question."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from .. import files
from .folder import folder, made_folder

_PAGE = 4096


def model_sha256(paths: tuple[Path, ...], *, compute: bool) -> str | None:
    """SHA-256 over a model's files, computed once for each file as it is.

    A remembered sum holds while the size, the time of change, and a hash of the header and of sampled pages are the
    same. Reading all of a large file again for every question would cost more than the question. Without ``compute``,
    a file that is not remembered gives None.
    """
    digest = hashlib.sha256()
    for path in paths:
        sha256 = file_sha256(path, compute=compute)
        if sha256 is None:
            return None
        digest.update(sha256.encode())
    return digest.hexdigest()


def file_sha256(path: Path, *, compute: bool = True) -> str | None:
    """One file's SHA-256, as ``model_sha256`` remembers it."""
    remembered = _remembered()
    status = path.stat()
    now = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sample": _sample(path)}
    before = remembered.get(str(path))
    if isinstance(before, dict) and {**before, "sha256": ""} == {**now, "sha256": ""}:
        return before["sha256"]
    if not compute:
        return None
    digest = files.sha256(path)
    _remember({**remembered, str(path): {**now, "sha256": digest}})
    return digest


def _remembered() -> dict:
    try:
        fingerprints = json.loads((folder() / "fingerprints.json").read_text())
    except (OSError, ValueError):
        return {}
    return fingerprints if isinstance(fingerprints, dict) else {}


def _remember(fingerprints: dict) -> None:
    with suppress(OSError):  # what is not remembered is computed again
        files.write_whole(made_folder() / "fingerprints.json", json.dumps(fingerprints))


def _sample(path: Path) -> str:
    """Hash of the first MiB and of 64 pages spread over the file."""
    from xxhash import xxh3_128

    digest, size = xxh3_128(), path.stat().st_size
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        for i in range(64):
            file.seek(size * i // 64)
            digest.update(file.read(_PAGE))
    return digest.hexdigest()
