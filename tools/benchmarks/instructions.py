#!/usr/bin/env python
"""Instructions of one flash attention on Arm CPUs, counted in an emulator. They are no time.

Each is a folder ``ggml`` of llama.cpp's sources, as for attention_op.py, and the CPU that it is compiled for. Debian's
packages qemu-user and g++-aarch64-linux-gnu do the rest.

    python tools/benchmarks/instructions.py ours=PATCHED/ggml@armv8.6-a+dotprod+fp16+i8mm \
        stock=STOCK/ggml@armv8.6-a+dotprod+fp16+i8mm

An operation's instructions are those of two more in a program that runs one thread.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from attention_op import PROGRAM, compiled

HERE = Path(__file__).parent
#: K and V; heads, KV heads and head size; keys and tokens: an emulator is slow.
CACHES = [("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")]
SHAPES = [(32, 4, 64), (32, 8, 128)]
STEPS = [(1024, 1), (256, 64)]
CROSS = [
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
]
#: Two copies of a cache, so that two operations are what one repeat more takes.
COMPILER = ["aarch64-linux-gnu-g++", "-static", "-DCOPIES=2"]


def cross_compiled(sources: Path, cpu: str, folder: Path, program: Path = PROGRAM) -> Path:
    """The program for an Arm CPU. llama.cpp's and ik_llama.cpp's sources name the option differently."""
    flags = [*CROSS, f"-DGGML_CPU_ARM_ARCH={cpu}", f"-DGGML_ARCH_FLAGS=-march={cpu}"]
    return compiled(sources, folder, flags, COMPILER, program)


def plugin(folder: Path) -> Path:
    library = folder / "count_instructions.so"
    source = HERE / "count_instructions.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return library


def counted(program: Path, plugin: Path, case: tuple) -> int:
    """Instructions of one operation of a case of attention_op.py."""

    def run(repeats: int) -> int:
        command = ["qemu-aarch64", "-cpu", "max", "-plugin", plugin, program, "1", str(repeats), *map(str, case)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(re.findall(r"^instructions (\d+)$", done.stderr, re.MULTILINE)[0])

    return (run(2) - run(1)) // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ggml", nargs="+", metavar="NAME=FOLDER@CPU", help="CPU as in -march; ratios are to the first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        counter = plugin(Path(scratch))
        programs = {}
        for each in options.ggml:
            name, _, place = each.partition("=")
            folder, _, cpu = place.rpartition("@")
            programs[name] = cross_compiled(Path(folder).resolve(), cpu, Path(scratch) / name)
        first, *others = programs
        head = ["K/V, keys, heads, size, tokens", *programs, *(f"{name} to {first}" for name in others)]
        print("| " + " | ".join(head) + " |\n|---" + "|---:" * (len(head) - 1) + "|")
        for keys, tokens in STEPS:
            for heads, kv_heads, size in SHAPES:
                for k, v in CACHES:
                    case = (k, v, keys, heads, kv_heads, size, tokens)
                    counts = {name: counted(program, counter, case) for name, program in programs.items()}
                    cells = [f"{k}/{v}, {keys}, {heads} on {kv_heads}, {size}, {tokens}"]
                    cells += [f"{count / 1e6:.2f}M" for count in counts.values()]
                    cells += [f"{counts[name] / counts[first]:.2f}x" for name in others]
                    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
