#!/usr/bin/env python
"""One flash attention on a CPU, alone: several ggml side by side, taking turns, in milliseconds.

Each is a folder ``ggml`` of llama.cpp's sources: stock, the series (``kvsplit-patch apply``), or ik_llama.cpp, whose sources
the sdist ``ik-llama-cpp-python`` holds. Caches lie in memory: each operation reads another one.

    python tools/benchmarks/attention_op.py ours=PATCHED/ggml stock=STOCK/ggml ik=IK/ggml --threads 2 --avx2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROGRAM = Path(__file__).with_suffix(".cpp")
#: K, V, keys, heads, KV heads, head size, tokens.
DECODE = [
    ("q8_0", "q4_0", 8192, 32, 4, 64, 1),
    ("f16", "f16", 8192, 32, 4, 64, 1),
    ("q8_0", "q8_0", 8192, 32, 4, 64, 1),
    ("q4_0", "q4_0", 8192, 32, 4, 64, 1),
    ("q8_0", "q4_0", 32768, 32, 4, 64, 1),
    ("f16", "f16", 32768, 32, 4, 64, 1),
    ("q8_0", "q4_0", 8192, 32, 8, 128, 1),
    ("q8_0", "q4_0", 8192, 32, 32, 64, 1),
    ("q8_0", "q4_0", 8192, 8, 4, 256, 1),
]
PREFILL = [
    ("q8_0", "q4_0", 8192, 32, 4, 64, 512),
    ("f16", "f16", 8192, 32, 4, 64, 512),
    ("q8_0", "q4_0", 8192, 32, 8, 128, 512),
]
#: On a Mac, what computes attention elsewhere than on the CPU; its compiler has no OpenMP.
MAC = ["METAL", "BLAS", "ACCELERATE", "OPENMP"]
AVX2 = ["NATIVE=OFF", "SSE42=ON", "AVX=ON", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON"]
#: ik_llama.cpp leaves most pairs out unless asked, and needs C++20 for what is no attention.
IK = ["-DGGML_IQK_FA_ALL_QUANTS=ON", "-DGGML_IQK_FLASH_ATTENTION=ON", "-DCMAKE_CXX_STANDARD=20"]


def compiled(
    sources: Path, folder: Path, flags: Sequence[str], compiler: Sequence[str], program: Path = PROGRAM
) -> Path:
    """A program, by its one source file, over the ggml in ``sources``, made in ``folder``.

    ``flags`` go to cmake; ``compiler`` compiles the program. Raises SystemExit with the last lines of what failed.
    """
    if not (sources / "ggml.pc.in").exists():  # sdists leave it out, and cmake wants it
        (sources / "ggml.pc.in").touch()
    off = ["BUILD_TESTS", "BUILD_EXAMPLES", "CCACHE", *(MAC if sys.platform == "darwin" else [])]
    flags = [*flags, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", *(f"-DGGML_{name}=OFF" for name in off)]
    flags += IK if (sources / "src" / "iqk").is_dir() else []
    _run("cmake", "-S", sources, "-B", folder, "-G", "Ninja", *flags)
    _run("ninja", "-C", folder, "ggml")
    return linked(sources, folder, folder / program.stem, compiler, program)


def linked(
    sources: Path,
    folder: Path,
    made: Path,
    compiler: Sequence[str],
    program: Path = PROGRAM,
    names: Sequence[str] = ("ggml*",),
) -> Path:
    """A program over libraries that were compiled in ``folder`` or below, of either kind; their headers are in ``sources``.

    ``names``: of the libraries, without lib.
    """
    found = [[file for name in names for file in sorted(folder.rglob(f"lib{name}{kind}"))] for kind in (".a", ".so")]
    libraries: list[object] = [*(found[0] or found[1])]
    if sys.platform != "darwin":  # whose linker reads them until nothing is missing
        libraries = ["-Wl,--start-group", *libraries, "-Wl,--end-group", "-ldl"]
    libraries += [f"-Wl,-rpath,{folder}", "-lpthread", "-lm"]
    _run(*compiler, "-std=c++17", "-O2", "-I", sources / "include", program, "-o", made, *libraries)
    return made


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def measured(program: Path, threads: int, cases: list[tuple], repeats: int) -> list[dict]:
    words = [str(word) for case in cases for word in case]
    run = subprocess.run([program, str(threads), str(repeats), *words], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ggml", nargs="+", help="NAME=FOLDER; ratios are to the first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--avx2", action="store_true", help="build for a CPU that has AVX2 and nothing later")
    options = parser.parse_args()
    folders = dict(each.split("=", 1) for each in options.ggml)
    cases = [*DECODE, *PREFILL]
    times: dict[str, list[list[float]]] = {name: [[] for _ in cases] for name in folders}
    with tempfile.TemporaryDirectory() as scratch:
        flags = [f"-DGGML_{flag}" for flag in AVX2] if options.avx2 else []
        compiler = ["c++"] if sys.platform == "darwin" else ["c++", "-fopenmp"]
        programs = {n: compiled(Path(f).resolve(), Path(scratch) / n, flags, compiler) for n, f in folders.items()}
        for turn in range(options.turns):
            for name in list(folders) if turn % 2 else reversed(folders):
                print(f"turn {turn + 1}: {name}", file=sys.stderr)
                rows = measured(programs[name], options.threads, DECODE, 7)
                rows += measured(programs[name], options.threads, PREFILL, 3)
                for values, row in zip(times[name], rows, strict=True):
                    values.append(row["ms"])
    first, *others = folders
    print("| " + " | ".join(["K/V, keys, heads, size, tokens", *folders, *(f"{n} to {first}" for n in others)]) + " |")
    print("|---" * (1 + len(folders) + len(others)) + "|")
    for at, (k, v, keys, heads, kv_heads, depth, tokens) in enumerate(cases):
        cells = [f"{k}/{v}, {keys}, {heads} on {kv_heads}, {depth}, {tokens}"]
        cells += [f"{statistics.median(times[name][at]):.3f} ms" for name in folders]
        cells += [f"{statistics.median(b / a for a, b in zip(times[first][at], times[n][at])):.2f}x" for n in others]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
