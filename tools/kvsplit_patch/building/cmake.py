"""Configure and compile a llama.cpp tree with cmake and ninja, in a folder that later trees reuse.

One *workspace* per set of flags and compiler: ``cache_dir()/build/<key>/{src,out}``. The tree is copied over the
last one's, only files whose bytes differ are written, and ninja compiles what those reach. So a patched tree after
the unpatched one costs the patched files, with or without ccache.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..echo import Echo
from ..errors import PatchError, Unable
from ..failures import build_error
from ..paths import cache_dir
from . import libstdcxx

#: The libraries that a build is made of, with what they need; and upstream's programs that prove a build.
LIBRARIES = ("llama", "mtmd")
TOOLS = ("llama-perplexity", "llama-bench", "test-backend-ops")


#: Upstream's default K-V pairs, and the unequal ones that are worth their compile time: a pair without kernels
#: converts the whole cache to f16 for every token.
_CUDA_PAIRS = "q4_0-q4_0;q8_0-q8_0;f16-f16;bf16-bf16;q8_0-q4_0;q4_0-q8_0"


@dataclass(frozen=True)
class Toolchain:
    cmake: str
    ninja: str
    cxx: str
    #: First line of ``c++ --version``: another compiler makes another build.
    compiler: str


def find_toolchain() -> Toolchain:
    """cmake and ninja from PATH or from their pip packages beside this Python, and a C++ compiler.

    Raises PatchError that says how to get what is missing.
    """
    missing = [name for name in ("cmake", "ninja") if not _program(name)]
    if missing:
        raise Unable(f"There is no {' and no '.join(missing)}: run 'pip install cmake ninja', or use your system's.")
    name = os.environ.get("CXX", "c++")
    compiler = shutil.which(name)
    if not compiler:
        how = "run 'xcode-select --install'" if sys.platform == "darwin" else "install g++ or clang"
        raise Unable(f"There is no C++ compiler ('{name}'): {how}, or name one in CXX.")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    if version.returncode:
        raise Unable(f"The C++ compiler {compiler} does not run: {version.stderr.strip() or 'no message'}.")
    return Toolchain(_program("cmake"), _program("ninja"), compiler, version.stdout.partition("\n")[0])


def flags(*, cuda: bool = False, vulkan: bool = False) -> tuple[str, ...]:
    """The ``-D`` flags that decide what the libraries are; part of a build's identity."""
    chosen = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        "GGML_NATIVE": "ON",  # for this machine's CPU; the patch amx-tile-config makes that safe
        "GGML_RPC": "ON",
        "GGML_RPC_RDMA": "OFF",  # it would need libibverbs wherever the library is loaded
    }
    if sys.platform == "darwin":
        chosen |= {"GGML_METAL": "ON", "GGML_METAL_EMBED_LIBRARY": "ON"}
    if cuda:
        chosen |= {"GGML_CUDA": "ON", "GGML_CUDA_FA_QUANTS": _CUDA_PAIRS}
    if vulkan:
        chosen |= {"GGML_VULKAN": "ON"}
    return tuple(f"-D{name}={value}" for name, value in sorted(chosen.items()))


def portable(chosen_flags: Sequence[str]) -> tuple[str, ...]:
    """The flags for libraries that run on other machines, too: on x86-64 those with AVX2, and without a compiler's OpenMP."""
    kept = [flag for flag in chosen_flags if not flag.startswith("-DGGML_NATIVE=")]
    return tuple(sorted([*kept, "-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF"]))


_LINUX = sys.platform == "linux"

#: What never changes a library: which targets exist, where they find each other, and no network while configuring.
_FIXED = (
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=ON",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    # Every library next to the others, found from wherever the folder lies.
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if sys.platform == 'darwin' else '$ORIGIN'}",
    # libllama.so instead of three names for one file. It also keeps the loader from taking llama-cpp-python's own
    # libggml.so.0 for ours where both are loaded (llama_cpp/_ggml.py ignores LLAMA_CPP_LIB_PATH).
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    # Upstream asks git, which would answer for whatever checkout lies around the workspace.
    "-DLLAMA_BUILD_NUMBER=0",
    # Some compilers link parts of libstdc++.a into each library (see libstdcxx). In Python, which has no libstdc++ of its
    # own, a library then took functions from another one's copy, or templates that use it, and crashed.
    *(["-DCMAKE_SHARED_LINKER_FLAGS_INIT=-Wl,--exclude-libs,libstdc++.a,-Bsymbolic-functions"] if _LINUX else []),
)


@contextmanager
def compiled(
    tree: Path,
    commit: str,
    chosen_flags: Sequence[str],
    targets: Sequence[str],
    echo: Echo,
    added: Mapping[str, Path] | None = None,
) -> Iterator[Path]:
    """Build ``targets`` of the source folder ``tree``; yields the folder that holds libraries and programs.

    ``added``: folders that are laid into the tree, by their path in it.

    The folder changes with the next tree: copy out of it before leaving the context, which holds its lock.
    Raises PatchError with the first error of the compiler, the linker or cmake when it fails.
    """
    toolchain = find_toolchain()
    workspace = cache_dir() / "build" / _key(chosen_flags, toolchain)
    workspace.mkdir(parents=True, exist_ok=True)
    workspace = workspace.resolve()  # the path is in what is compiled, and ccache leaves it out only where it knows it
    with _locked(workspace / "lock", echo) as lock:
        with disk_full_explained(workspace):
            copy_changed(tree, workspace / "src")
            for path, folder in (added or {}).items():
                copy_changed(folder, workspace / "src" / path)
            (workspace / "tree").write_text(tree.name)
        log = workspace / "log.txt"
        configure = [toolchain.cmake, "-S", "src", "-B", "out", "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={toolchain.ninja}", f"-DLLAMA_BUILD_COMMIT={commit[:12]}"]
        echo(f"configuring llama.cpp (seconds), then compiling what is not compiled yet; all of it: {duration()}")
        configure.append("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")  # for an editor; see compile_database
        if not shutil.which("ccache"):
            configure.append("-DGGML_CCACHE=OFF")  # cmake also finds one that is not on the PATH, and ninja does not
        _run([*configure, *_FIXED, *libstdcxx.flags(toolchain.cxx), *chosen_flags], workspace, log, echo, lock)
        _run([toolchain.ninja, "-C", "out", *targets], workspace, log, echo, lock)
        yield workspace / "out" / "bin"


def duration() -> str:
    """About how long this machine takes to compile the libraries, for people who wait for it."""
    # Seen: 6 minutes of one core (Xeon, GCC 12, -O3), which ninja spreads over all.
    return f"about {max(1, round(6 / (os.cpu_count() or 1)))} min"


def compile_database(tree: str, chosen_flags: Sequence[str]) -> Path | None:
    """Says how each file of ``tree`` is compiled; None where another tree was compiled with these flags since."""
    workspace = cache_dir() / "build" / _key(chosen_flags, find_toolchain())
    latest = workspace / "tree"
    database = workspace / "out" / "compile_commands.json"
    return database if latest.is_file() and latest.read_text() == tree and database.is_file() else None


def copy_changed(source: Path, target: Path) -> list[Path]:
    """Make ``target`` the same as ``source``, touching only what differs; returns the changed relative paths.

    Times stay old where bytes are the same, which is what ninja looks at.
    """
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file() or path.is_symlink()}
    wanted = {path for path in wanted if path.parts[0] != ".git"}
    changed = []
    if target.is_dir():
        for path in target.rglob("*"):
            if not path.is_dir() and path.relative_to(target) not in wanted:
                path.unlink()
                changed.append(path.relative_to(target))
    for path in sorted(wanted):
        old, new = target / path, source / path
        if not _same(new, old):
            old.parent.mkdir(parents=True, exist_ok=True)
            old.unlink(missing_ok=True)
            shutil.copyfile(new, old, follow_symlinks=False)  # with the time of now
            if not new.is_symlink():
                shutil.copymode(new, old)
            changed.append(path)
    return changed


@contextmanager
def disk_full_explained(where: Path) -> Iterator[None]:
    """Turn "no space left" into a sentence that says where and what to do."""
    try:
        yield
    except OSError as ex:
        if ex.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unable(_disk_full(where)) from ex


def _disk_full(where: Path) -> str:
    return (
        f"The disk that holds {where} is full, and a build takes about 1 GB: free some, "
        "or name another folder in KVSPLIT_CACHE."
    )


def _program(name: str) -> str:
    # Not only PATH: a virtual environment that is not activated has pip's cmake beside its Python.
    beside = str(Path(sys.executable).parent)
    return shutil.which(name) or shutil.which(name, path=beside) or ""


def _key(chosen_flags: Sequence[str], toolchain: Toolchain) -> str:
    return hashlib.sha256("\n".join([*chosen_flags, *_FIXED, toolchain.compiler]).encode()).hexdigest()[:16]


def _same(a: Path, b: Path) -> bool:
    if a.is_symlink() or b.is_symlink():
        return a.is_symlink() and b.is_symlink() and os.readlink(a) == os.readlink(b)
    return b.is_file() and a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def _environment(workspace: Path) -> dict[str, str]:
    """ccache is upstream's choice when it is installed (GGML_CCACHE); here it learns where to keep its results."""
    environment = dict(os.environ)
    environment.setdefault("CCACHE_DIR", str(cache_dir() / "ccache"))
    environment.setdefault("CCACHE_BASEDIR", str(workspace))
    environment.setdefault("CCACHE_NOHASHDIR", "1")
    environment["NINJA_STATUS"] = "[%f/%t] "
    return environment


@contextmanager
def _locked(file: Path, echo: Echo) -> Iterator[int]:
    """One build at a time in a workspace; yields the lock's file descriptor, which ninja is to inherit.

    A lock that only this process held would be free once it is killed, while ninja or a compiler goes on writing
    the very files that the next build writes.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            echo(f"waiting for another build in {file.parent}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


#: What a backend needs beside a C++ compiler, by what is said where it is missing. With CUDA that is CMake's word alone: an
#: error in one of the kernels comes of a toolkit that is there. Vulkan's headers are found missing by the compiler, too.
_NEEDS = {
    "vulkan": (
        "The Vulkan backend needs glslc, SPIRV-Headers and Vulkan's headers, and those of Debian 12 (1.3.239) are too old: "
        "LunarG's Vulkan SDK has them all, with its folder in VULKAN_SDK."
    ),
    "cuda toolkit|cmake_cuda_compiler|find nvcc": (
        "The CUDA backend needs NVIDIA's CUDA toolkit, with its nvcc on the PATH."
    ),
}


def _run(command: list[str], workspace: Path, log: Path, echo: Echo, lock: int) -> None:
    """Run in the workspace, everything into ``log``, ninja's steps to ``echo``; raises PatchError on failure."""
    began = time.monotonic()
    with open(log, "w") as whole:
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env=_environment(workspace),
            pass_fds=(lock,),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                whole.write(line)
                if step := re.match(r"\[(\d+)/(\d+)\] ", line):
                    left = _left(time.monotonic() - began, int(step[1]), int(step[2]))
                    echo(f"{step[0]}{left}{line[step.end() :].rstrip()}")
            code = process.wait()
        except BaseException:
            process.terminate()  # Ctrl-C: ninja removes what it was writing, and the next run goes on from there
            process.wait()
            raise
    if code == 0:
        return
    text = log.read_text(errors="replace")
    if "No space left on device" in text:
        raise Unable(_disk_full(workspace))
    error = build_error(text)
    needs = next((f" {needs}" for lacking, needs in _NEEDS.items() if re.search(lacking, error, re.IGNORECASE)), "")
    raise PatchError(f"{Path(command[0]).name} failed: {error}; all of its output is in {log}.{needs}")


def _left(seconds: float, done: int, total: int) -> str:
    """How long it will take, once enough is done to tell."""
    left = seconds / done * (total - done) if done else 0
    return f"about {left / 60:.0f} min left: " if seconds > 10 and left > 45 else ""
