"""A llama-cpp-python wheel whose llama.cpp is the patched one, for people who install wheels rather than backends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..echo import Echo
from ..errors import PatchError
from ..failures import build_error
from ..series import patchset
from ..series.trees import SourceTree
from ..upstream.sdist import download_sdist
from . import abi, cmake
from .artifacts import bindings_version


def make(source: SourceTree, flags: Sequence[str], folder: Path, echo: Echo) -> Path:
    """Build the wheel into ``folder`` and return it; its version is llama-cpp-python's with ``+kvsplit.N`` behind it.

    Takes the sdist of the *installed* bindings and puts the tree in the place of ``vendor/llama.cpp``.
    Raises PatchError when the structures do not fit, or pip fails.
    """
    misfits = abi.mismatches(source.folder)
    if misfits:
        raise PatchError(
            f"A wheel of this tree would misread memory: {misfits[0]}; build from the commit that llama-cpp-python vendors."
        )
    toolchain = cmake.find_toolchain()
    bindings = bindings_version()
    archive = download_sdist(bindings)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, cmake.disk_full_explained(Path(scratch)):
        project = _unpack(archive, Path(scratch))
        shutil.rmtree(project / "vendor" / "llama.cpp")
        shutil.copytree(source.folder, project / "vendor" / "llama.cpp", symlinks=True)
        version = set_version(project / "llama_cpp" / "__init__.py", _local(source))
        echo(f"pip wheel llama-cpp-python {version}: compiles all of llama.cpp, in silence, {cmake.duration()}")
        environment = {
            **os.environ,
            # scikit-build-core reads both, and pip's isolated build would fetch its own otherwise.
            "CMAKE_ARGS": " ".join([*flags, f"-DLLAMA_BUILD_COMMIT={source.commit[:12]}", "-DLLAMA_BUILD_NUMBER=0"]),
            "CMAKE_GENERATOR": "Ninja",
            # Whoever installs the bindings without a library may have set this to false for all builds.
            "SKBUILD_WHEEL_CMAKE": "true",
            "CMAKE_MAKE_PROGRAM": toolchain.ninja,
            "PATH": os.pathsep.join([str(Path(toolchain.cmake).parent), os.environ.get("PATH", "")]),
        }
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir"]
        command += ["--wheel-dir", scratch, str(project)]
        pip = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        wheels = list(Path(scratch).glob("*.whl"))
        if pip.returncode or not wheels:
            raise PatchError(f"pip could not build the wheel: {build_error(pip.stdout + pip.stderr)}.")
        target = folder / wheels[0].name
        shutil.move(wheels[0], target)
    return target


def set_version(file: Path, local: str) -> str:
    """Put ``+local`` behind the ``__version__`` in ``llama_cpp/__init__.py``, where the build reads it; the whole version."""
    text = file.read_text()
    stated = re.search(r'^__version__ = "([^"+]+)"$', text, re.MULTILINE)
    if not stated:
        raise PatchError(f"{file.name} of the sdist states no version in the way we know: report it.")
    version = f"{stated[1]}+{local}"
    file.write_text(text.replace(stated[0], f'__version__ = "{version}"'))
    return version


def _local(source: SourceTree) -> str:
    return f"kvsplit.{patchset.load().lock.series_version}" if source.patches else "unpatched"


def _unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        # Its git objects are 100 MB that a build does not read, and tell scikit-build-core what to leave out.
        members = [member for member in archive if "/.git/" not in member.name and not member.name.endswith("/.git")]
        if sys.version_info >= (3, 12) or hasattr(tarfile, "data_filter"):
            archive.extractall(folder, members, filter="data")
        else:  # pip checked the same file when it downloaded it
            archive.extractall(folder, members)
    return next(path for path in folder.iterdir() if path.is_dir())
