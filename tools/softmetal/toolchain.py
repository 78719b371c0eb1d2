"""clang, which compiles Objective-C and kernels, and the C++ that stands in for Apple's frameworks.

clang comes from the package ``ziglang``: a whole one, without a system package. It takes 400 MB, so it is downloaded when
it is first wanted. llama.cpp's C++ is compiled by the compiler that compiles it elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from kvsplit_patch.errors import PatchError
from kvsplit_patch.failures import build_error
from kvsplit_patch.paths import cache_dir
from kvsplit_patch.upstream import index

HERE = Path(__file__).parent
_ZIGLANG = "0.17.1"
#: What decides how a kernel is compiled: a change in any makes another cache.
_KERNEL_SOURCES = ("msl.py", "kernels.py", "msl", "device/lane.h")


def clang() -> str:
    """The program that is clang when its first word is ``c++`` or ``cc``; downloaded if it is not there.

    Raises PatchError where it cannot be had.
    """
    package = folder() / f"ziglang-{_ZIGLANG}"
    program = package / "ziglang" / "zig"
    if program.is_file():
        return str(program)
    with index.incoming(folder()) as scratch:
        if not program.is_file():  # another process may have brought it meanwhile
            wheel = index.download("ziglang", _ZIGLANG, "wheel", scratch)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch / "whole")
            (scratch / "whole" / "ziglang" / "zig").chmod(0o755)  # which a zip file forgets
            os.replace(scratch / "whole", package)
    return str(program)


def check_platform() -> None:
    """Raises PatchError where the software device cannot run."""
    if not sys.platform.startswith("linux"):
        raise PatchError("The software Metal runs on Linux: on a Mac, build with the real one.")
    if os.uname().machine not in ("x86_64", "aarch64"):
        raise PatchError(f"The software Metal runs on x86-64 and arm64, not on {os.uname().machine}.")


def folder() -> Path:
    path = cache_dir() / "softmetal"
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*names: str) -> str:
    """A name for the content of these files and folders of softmetal, and the compiler's version."""
    whole = hashlib.sha256(_version().encode())
    for name in names:
        path = HERE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


@lru_cache
def _version() -> str:
    return subprocess.run([clang(), "version"], capture_output=True, text=True).stdout


def kernel_cache() -> Path:
    """Where compiled kernels are kept."""
    path = folder() / "kernels" / digest(*_KERNEL_SOURCES)
    path.mkdir(parents=True, exist_ok=True)
    return path


def device_library() -> Path:
    """``libsoftmetal.so``: Foundation, Metal and the device, compiled if it is not there. Raises PatchError."""
    path = folder() / "device" / digest("device") / "libsoftmetal.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(file) for file in (HERE / "device").iterdir() if file.suffix in (".cpp", ".S"))
    compiler = os.environ.get("CXX", "c++")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        command = [compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", f"-Wl,-soname,{path.name}", *sources]
        compiled = subprocess.run([*command, "-ldl", "-o", str(made)], capture_output=True, text=True)
        if compiled.returncode:
            raise PatchError(f"The software Metal does not compile: {build_error(compiled.stderr)}.")
        os.replace(made, path)
    return path


def wrappers() -> dict[str, Path]:
    """Programs for cmake to call: ``cc`` for C and Objective-C, ``as`` for the assembler files that embed kernels.

    They lie in a folder of their content, with the headers that they need, so that checkouts share them where they are
    the same, and do not meet where they are not.
    """
    scripts = _scripts()
    content = "\n".join([digest("objc"), *scripts.values()])
    programs = folder() / "compilers" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not programs.is_dir():
        programs.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=programs.parent) as scratch:
            made = Path(scratch) / programs.name
            shutil.copytree(HERE / "objc", made / "objc")
            for name, script in scripts.items():
                (made / name).write_text(script)
                (made / name).chmod(0o755)
            try:
                os.rename(made, programs)
            except OSError:
                if not programs.is_dir():  # which it is where another process was faster
                    raise
    return {name: programs / name for name in scripts}


def _scripts() -> dict[str, str]:
    options = "-fobjc-runtime=objfw -fconstant-string-class=NSConstantString -fblocks -fno-sanitize=all"
    quiet = "-Wno-incompatible-pointer-types -Wno-unused-command-line-argument"
    cache = f'export ZIG_GLOBAL_CACHE_DIR="{folder() / "zig"}" ZIG_LOCAL_CACHE_DIR="{folder() / "zig"}"'
    scripts = {
        "cc": f'{cache}\nexec "{clang()}" cc {options} {quiet} -I"${{0%/*}}/objc" "$@"\n',
        # The files are written for Apple's format: its sections are named otherwise, its symbols begin with a "_".
        "as": f'{cache}\nfor word in "$@"; do case "$word" in *.s) sed -i '
        "-e 's/^\\.section __DATA,__ggml_metallib$/.section .rodata/' "
        f'-e \'s/^\\(\\.globl \\)\\{{0,1\\}}_ggml_/\\1ggml_/\' "$word";; esac; done\nexec "{clang()}" cc "$@"\n',
    }
    return {name: f"#!/bin/sh\n{script}" for name, script in scripts.items()}
