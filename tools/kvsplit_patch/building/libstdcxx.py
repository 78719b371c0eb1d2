"""One libstdc++ for all libraries and programs of a build."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

#: What only libstdc++ defines, not a header.
_SOURCE = "#include <locale>\nstd::locale classic() { return std::locale::classic(); }\n"
_SHARED = "-l:libstdc++.so.6"


def flags(compiler: str) -> list[str]:
    """For cmake, where the C++ ``compiler`` would link libstdc++.a into each library: libstdc++.so before it.

    With a copy in each, what one copy makes and another one ends, such as a std::locale in a stream or a regular
    expression, frees memory that was never allocated: "free(): invalid pointer", and the process ends. What the shared
    library lacks, since it is older than the compiler, still comes from the archive.
    """
    if sys.platform != "linux" or _needs(compiler) != "":
        return []
    return [f"-DCMAKE_CXX_STANDARD_LIBRARIES={_SHARED}"] if _needs(compiler, _SHARED) == "libstdc++.so.6" else []


def _needs(compiler: str, *libraries: str) -> str | None:
    """The C++ library that a shared library needs, "" if it holds libstdc++ itself; None if that cannot be told."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "classic.cpp"), Path(folder, "classic.so")
        source.write_text(_SOURCE)
        given = [word for name in ("CXXFLAGS", "LDFLAGS") for word in shlex.split(os.environ.get(name, ""))]
        command = [compiler, *given, "-shared", "-fPIC", "-o", str(result), str(source), *libraries]
        if subprocess.run(command, capture_output=True).returncode:
            return None  # the build itself will say why
        content = result.read_bytes()
    if b"libc++" in content or b"NSt3__1" in content:
        return None  # clang's library
    return "libstdc++.so.6" if b"libstdc++.so.6" in content else ""
