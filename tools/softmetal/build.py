"""llama.cpp with its Metal backend, for this machine: upstream's own build files, told to use softmetal's compilers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.echo import Echo
from kvsplit_patch.series.trees import SourceTree

from . import toolchain


def flags() -> tuple[str, ...]:
    """What ``kvsplit_patch.building`` is to be given. Apple's three frameworks are one library here."""
    toolchain.check_platform()
    library = toolchain.device_library()
    programs = toolchain.wrappers()
    return (
        *cmake.flags(),
        "-DGGML_METAL=ON",
        "-DGGML_METAL_EMBED_LIBRARY=ON",
        f"-DFOUNDATION_LIBRARY={library}",
        f"-DMETAL_FRAMEWORK={library}",
        f"-DMETALKIT_FRAMEWORK={library}",
        f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,{library.parent}",
        f"-DCMAKE_C_COMPILER={programs['cc']}",
        f"-DCMAKE_ASM_COMPILER={programs['as']}",
        # clang and g++ have each their own OpenMP, and a library must not hold both.
        "-DGGML_OPENMP=OFF",
        # Apple's headers bring <memory> and <cstring> along, and upstream's files rely on that.
        "-DCMAKE_CXX_FLAGS=-include memory -include cstring",
    )


def programs(source: SourceTree, echo: Echo) -> Path:
    """``build.tools`` of a tree with the software Metal in it; run them with ``environment()``. Raises PatchError."""
    return artifacts.tools(source, flags(), echo)


def environment(*, reverse: bool = False, count_loads: bool = False, report: Path | None = None) -> dict[str, str]:
    """The environment in which such programs find the device.

    ``reverse``: run what nothing orders in the opposite order. ``count_loads``: count the bytes that kernels load
    (slow). ``report``: the JSON file to write counts to.
    """
    chosen = dict(os.environ)
    before = chosen.get("LD_LIBRARY_PATH")
    chosen |= {
        "LD_LIBRARY_PATH": os.pathsep.join([str(toolchain.device_library().parent), *([before] if before else [])]),
        "SOFTMETAL_CACHE": str(toolchain.kernel_cache()),
        "SOFTMETAL_COMPILER": f"'{sys.executable}' '{toolchain.HERE / 'kernels.py'}' '{toolchain.clang()}'",
        "SOFTMETAL_REVERSE": str(int(reverse)),
        "SOFTMETAL_COUNT_LOADS": str(int(count_loads)),
        # test-backend-ops also tries every tuned kernel of two large heads, whatever cases are chosen: minutes, here.
        "LLAMA_TEST_FA_VEC_DISABLE": "1",
    }
    if report:
        chosen["SOFTMETAL_REPORT"] = str(report)
    return chosen
