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
from pathlib import Path

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
AVX2 = ["NATIVE=OFF", "SSE42=ON", "AVX=ON", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON"]
#: ik_llama.cpp leaves most pairs out unless asked, and needs C++20 for what is no attention.
IK = ["-DGGML_IQK_FA_ALL_QUANTS=ON", "-DGGML_IQK_FLASH_ATTENTION=ON", "-DCMAKE_CXX_STANDARD=20"]


def compiled(sources: Path, folder: Path, avx2: bool) -> Path:
    """The program of ``attention_op.cpp`` over the ggml in ``sources``."""
    (sources / "ggml.pc.in").touch()  # sdists leave it out, and cmake wants it
    flags = [f"-DGGML_{flag}" for flag in AVX2] if avx2 else []
    flags += IK if (sources / "src" / "iqk").is_dir() else []
    off = ["BUILD_TESTS", "BUILD_EXAMPLES", "CCACHE"]
    flags += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", *(f"-DGGML_{name}=OFF" for name in off)]
    run = ["cmake", "-S", str(sources), "-B", str(folder), "-G", "Ninja", *flags]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", str(folder), "ggml"], check=True, stdout=subprocess.DEVNULL)
    libraries = [str(library) for library in folder.rglob("libggml*.a")]
    program = folder / "attention_op"
    command = ["c++", "-O2", f"-I{sources / 'include'}", str(Path(__file__).with_suffix(".cpp")), "-o", str(program)]
    command += ["-Wl,--start-group", *libraries, "-Wl,--end-group", "-fopenmp", "-lpthread", "-ldl", "-lm"]
    subprocess.run(command, check=True)
    return program


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
        programs = {n: compiled(Path(f).resolve(), Path(scratch) / n, options.avx2) for n, f in folders.items()}
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
