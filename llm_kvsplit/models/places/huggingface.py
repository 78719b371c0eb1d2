"""Hugging Face's cache, which llama.cpp uses, too.

Layout: models--OWNER--REPO/snapshots/COMMIT/FILE, links to ../../blobs/HASH (plain files where links are not
possible); refs/main names the commit. Source: huggingface_hub 2.4.0 (constants.py, file_download.py), which fills the
tests' caches; hf-cache.cpp of llama.cpp, which reads and writes the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..browse import begins_like_gguf, children, gguf_files, home, read_text
from ..place import Fault, Place

PROGRAM = "Hugging Face"


def folder() -> Path:
    """Where huggingface_hub looks first."""
    for variable, inside in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if value := os.environ.get(variable):
            return Path(os.path.expandvars(os.path.expanduser(value)), inside)
    return home() / ".cache/huggingface/hub"


def places() -> Iterator[Place | Fault]:
    yield from cache(folder(), PROGRAM)


def cache(folder: Path, program: str) -> Iterator[Place | Fault]:
    """What lies in a cache of this layout."""
    for repo in children(folder):
        if isinstance(repo, Fault):
            yield repo
        elif repo.name.startswith("models--"):
            yield from _repo(repo, program)


def _repo(repo: Path, program: str) -> Iterator[Place | Fault]:
    name = repo.name.removeprefix("models--").replace("--", "/")
    main = read_text(repo / "refs/main")
    if isinstance(main, Fault):
        yield main
        main = None
    main = (main or "").strip()
    for snapshot in sorted(children(repo / "snapshots"), key=lambda each: isinstance(each, Path) and each.name != main):
        if isinstance(snapshot, Fault):
            yield snapshot
            continue
        # What the owner has replaced since, or was fetched by its commit, is a model of its own.
        commit = "" if snapshot.name == main else f"@{snapshot.name[:7]}"
        for file in gguf_files(snapshot):
            if isinstance(file, Fault):
                yield file
            else:
                yield Place(program, f"{name}/{file.relative_to(snapshot).as_posix()}{commit}", file)
    for blob in children(repo / "blobs"):
        if isinstance(blob, Fault):
            yield blob
        elif blob.name.endswith((".incomplete", ".downloadInProgress")) and begins_like_gguf(blob):
            yield Fault(blob, f"is an unfinished download from {name}")
