"""The shared libraries in a folder: copied, named, and asked whether they are of the series."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llm_kvsplit import files

from ..errors import PatchError
from ..failures import last_words


def copy_libraries(out: Path, folder: Path, names: str = "*") -> dict[str, str]:
    """Copy the shared libraries whose stems match the glob; returns file name -> SHA-256."""
    libraries = {}
    for file in sorted(out.iterdir()):
        if file.suffix in (".so", ".dylib", ".dll") and fnmatch(file.stem.removeprefix("lib"), names):
            shutil.copy2(file, folder / file.name)
            libraries[file.name] = files.sha256(file)
    return libraries


def library(folder: Path, name: str = "llama") -> Path:
    for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll"):
        if (folder / file).is_file():
            return folder / file
    raise PatchError(f"There is no {name} library in {folder}: remove the build and make it again.")


def marker(folder: Path) -> dict[str, Any] | None:
    """What ``llama_kvsplit_info`` of the built library says; None where it is absent.

    In a child process: a library stays loaded, and one that dies on this machine must not take us along.
    """
    code = (
        "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); info = getattr(lib, 'llama_kvsplit_info', None)\n"
        "if info: info.restype = ctypes.c_char_p; print(info().decode())"
    )
    child = subprocess.run([sys.executable, "-c", code, str(library(folder))], capture_output=True, text=True)
    if child.returncode:
        raise PatchError(f"The library that was built does not load: {last_words(child)}; please report it.")
    return json.loads(child.stdout) if child.stdout.strip() else None
