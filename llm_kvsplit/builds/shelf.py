"""The one shelf of builds of llama.cpp's libraries: which there are, which one was chosen, and how one comes and goes.

A *build* is a folder ``backends/<id>/`` with the shared libraries, ``bindings.json``, which says what they define, and a
``manifest.json``, which is written last, so a folder without one is not a build.
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
from . import definitions, interface

STOCK = "stock"
#: The folder that LLAMA_CPP_LIB_PATH names.
CUSTOM = "custom"
#: No library at all: llama-cpp-python came without one, and no build has been made yet.
NONE = "none"
#: What a build's libraries define, made of its own tree's headers (see ``definitions.py``).
BINDINGS = "bindings.json"
_LIBRARIES = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")


@dataclass(frozen=True)
class Build:
    #: A build's id, "stock" for the libraries that came with llama-cpp-python, "custom" for LLAMA_CPP_LIB_PATH, or "none".
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

    @property
    def bindings(self) -> Path | None:
        """The file of its own definitions; None for a library that is used through llama-cpp-python's."""
        file = self.folder / BINDINGS if self.folder else None
        return file if file and file.is_file() else None


def bindings_version() -> str:
    """The installed llama-cpp-python's version. Raises KvsplitError without one."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        raise KvsplitError("llama-cpp-python is not installed here: run 'pip install llama-cpp-python'.") from None


def stock_folder() -> Path | None:
    """Where llama-cpp-python's own library lies; None where it was installed without one."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    return folder if library_file(folder) else None


def library_file(folder: Path, stem: str = "llama") -> Path | None:
    """libllama, or another library, in a folder, whatever it is called there."""
    names = [name.replace("llama", stem) for name in _LIBRARIES]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def custom(folder: Path) -> Build:
    """The libraries that LLAMA_CPP_LIB_PATH names: a copy of a build, or anyone else's."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        manifest = None
    return Build(CUSTOM, folder, manifest if isinstance(manifest, dict) else None)


def there(folder: Path) -> bool:
    """Whether a folder is a finished build, every file of it as its manifest says."""
    build = custom(folder)
    if build.manifest is None or misfit(build):
        return False
    return all(files.sha256(folder / name) == digest for name, digest in files_of(build.manifest).items())


def builds() -> list[Build]:
    """Every finished build, newest first. What cannot be read is left out; ``doctor`` names it."""
    listed = []
    for manifest_file in backends_dir().glob("*/manifest.json"):
        try:
            manifest = json.loads(manifest_file.read_text())
            created = str(manifest["created"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        listed.append((created, Build(manifest_file.parent.name, manifest_file.parent, manifest)))
    return [build for _, build in sorted(listed, key=lambda pair: pair[0], reverse=True)]


def find(name: str) -> Build:
    """The build whose id is ``name`` or starts with it. Raises KvsplitError for none, and for several."""
    known = builds()
    fitting = [build for build in known if build.id == name] or [build for build in known if build.id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise KvsplitError(f"'{name}' could be {' or '.join(build.id for build in fitting)}: write more of it.")
    have = ", ".join(build.id for build in known) or "none; 'llm kvsplit backend build' makes one"
    raise KvsplitError(f"There is no build '{name}', only: {have}.")


def files_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The files that a manifest names, with their SHA-256."""
    return {BINDINGS: manifest["bindings"], **manifest["libraries"]}


def misfit(build: Build) -> str:
    """Why a build cannot be used, as the rest of "It cannot be used: …"; empty when it can.

    What it has to say comes from the build's own definitions. A library without any is looked at when it is loaded.
    """
    if build.manifest is None or "bindings" not in build.manifest:
        if build.bindings:
            return f"its {BINDINGS} stands without the manifest.json that says which libraries it is of"
        if build.id in (STOCK, CUSTOM, NONE):
            return ""
        return f"it was made before builds carried a {BINDINGS}"
    assert build.folder is not None
    try:
        named = files_of(build.manifest)
        missing = [name for name in named if not (build.folder / name).is_file()]
        if missing:
            return f"it lacks {', '.join(missing)}"
        # Of a folder that someone else filled, the library is compared, too: the definitions are of that one only.
        compared = [BINDINGS] + [name for name in _LIBRARIES if build.id == CUSTOM and name in named]
        for name in compared:
            if files.sha256(build.folder / name) != named[name]:
                return f"its {name} is not the file that its manifest names"
        clauses = interface.faults(definitions.read(build.folder / BINDINGS))
    except KvsplitError as unreadable:
        return unreadable.message.removesuffix(".")
    except (OSError, AttributeError, TypeError, KeyError) as failure:
        return f"its manifest cannot be read ({failure!r})"
    return f"llm-kvsplit uses llama.cpp otherwise: {interface.summary(clauses)}" if clauses else ""


def active() -> str:
    """What ``use`` chose: a build's id, "stock", or nothing."""
    file = _active_file()
    return file.read_text().strip() if file.is_file() else ""


def use(name: str) -> str:
    """Make ``name`` (or "stock") what is loaded from now on; returns the whole id.

    Raises KvsplitError for a build that cannot be used.
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
    if reason := misfit(build):
        raise KvsplitError(f"{build.id} cannot be used: {reason}. Make one that can with 'llm kvsplit backend build'.")
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
            shutil.rmtree(folder)  # had no manifest, or not the files that it names
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
