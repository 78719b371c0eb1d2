"""The one shelf of builds of llama.cpp's libraries: which there are, which one was chosen, and how one comes and goes.

A *build* is a folder ``backends/<id>/`` with the shared libraries and a ``manifest.json``, which is written last, so a
folder without one is not a build.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import files
from ..errors import KvsplitError
from ..paths import backends_dir

STOCK = "stock"
#: No library at all: the bindings came without one, and no build has been made yet.
NONE = "none"


@dataclass(frozen=True)
class Build:
    #: A build's id, "stock" for the libraries that came with the bindings, "custom" for LLAMA_CPP_LIB_PATH, or "none".
    id: str
    #: Where the libraries are; None for stock and for none.
    folder: Path | None = None
    manifest: dict[str, Any] | None = None
    #: Why a build that was asked for, or is there, is not the one chosen; one sentence.
    note: str = ""

    @property
    def patched(self) -> bool:
        """Whether it is a build of the patch series."""
        return bool(self.manifest and self.manifest.get("features"))


def bindings_version() -> str:
    """The installed llama-cpp-python's version. Raises KvsplitError without one."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        raise KvsplitError("llama-cpp-python is not installed here: run 'pip install llama-cpp-python'.") from None


def stock_folder() -> Path | None:
    """Where the bindings' own library lies; None where they were installed without one."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    names = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")
    return folder if any((folder / name).is_file() for name in names) else None


def builds() -> list[Build]:
    """Every finished build, newest first. What cannot be read is left out; ``doctor`` names it."""
    found = []
    for manifest_file in backends_dir().glob("*/manifest.json"):
        try:
            manifest = json.loads(manifest_file.read_text())
            created = str(manifest["created"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append((created, Build(manifest_file.parent.name, manifest_file.parent, manifest)))
    return [build for _, build in sorted(found, key=lambda pair: pair[0], reverse=True)]


def find(name: str) -> Build:
    """The build whose id is ``name`` or starts with it. Raises KvsplitError for none, and for several."""
    known = builds()
    fitting = [build for build in known if build.id == name] or [build for build in known if build.id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise KvsplitError(f"'{name}' could be {' or '.join(build.id for build in fitting)}: write more of it.")
    have = ", ".join(build.id for build in known) or "none; 'llm kvsplit backend build' makes one"
    raise KvsplitError(f"There is no backend build '{name}', only: {have}.")


def misfit(build: Build) -> str:
    """Why a build cannot serve these bindings; empty when it can."""
    assert build.manifest is not None and build.folder is not None
    built_for, have = build.manifest.get("bindings_version"), bindings_version()
    if built_for != have:
        return f"build {build.id} was made for llama-cpp-python {built_for} and {have} is installed"
    if build.manifest.get("abi") == "mismatch":
        return f"build {build.id} lays out its structures differently from llama-cpp-python {have}"
    missing = [name for name in build.manifest.get("libraries", {}) if not (build.folder / name).is_file()]
    if missing:
        return f"build {build.id} lacks {', '.join(missing)}"
    return ""


def active() -> str:
    """What ``use`` chose: a build's id, "stock", or nothing."""
    file = _active_file()
    return file.read_text().strip() if file.is_file() else ""


def use(name: str) -> str:
    """Make ``name`` (or "stock") what is loaded from now on; returns the whole id.

    Raises KvsplitError for a build whose structures or functions the installed bindings do not fit.
    """
    identity = _stock() if name == STOCK else _fitting(find(name))
    try:
        files.write_whole(_active_file(), identity + "\n")
    except OSError as error:
        raise KvsplitError(f"{_active_file()} cannot be written ({error.strerror}): check its folder.") from error
    return identity


def _stock() -> str:
    if stock_folder() is None:
        raise KvsplitError(
            "llama-cpp-python was installed without a library of its own here: use a build, or install it anew."
        )
    return STOCK


def _fitting(build: Build) -> str:
    assert build.manifest is not None
    built_for, have = build.manifest.get("bindings_version"), bindings_version()
    if built_for != have:
        raise KvsplitError(
            f"{build.id} was built for llama-cpp-python {built_for}, and {have} is installed: make one that fits with "
            "'llm kvsplit backend build'."
        )
    if build.manifest.get("abi") == "mismatch":
        raise KvsplitError(
            f"{build.id} cannot be used with llama-cpp-python {have}: {build.manifest['abi_mismatches'][0]}; build from "
            "the commit that the bindings vendor."
        )
    return build.id


def remove(name: str) -> str:
    """Delete a build; the next that fits is loaded then. Returns its id."""
    import shutil

    identity = find(name).id
    folder = backends_dir() / identity
    # Renamed first: a half-deleted folder must not look like a build.
    doomed = folder.parent.parent / f".removing-{identity}-{os.getpid()}"
    os.replace(folder, doomed)
    shutil.rmtree(doomed)
    if active() == identity:
        _active_file().unlink()
    return identity


def _active_file() -> Path:
    return backends_dir() / "active"


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new folder that becomes ``folder`` when the block ends well, and vanishes when it does not.

    The caller holds a lock, so that no other process makes the same one.
    """
    import shutil

    # Beside the parent, not in it: whoever lists builds never sees an unfinished one.
    temporary = folder.parent.parent / f".building-{folder.name}-{os.getpid()}"
    for left in folder.parent.parent.glob(f".building-{folder.name}-*"):
        shutil.rmtree(left)  # from a process that was killed
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)  # had no manifest
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
