#!/usr/bin/env python
"""What each patch of the attention on a CPU gains by itself: llama-bench at every rung, and of stock.

A rung is the series up to one of those patches. All rungs take turns, with f16 and K8V4, on a model with random weights
whose time is mostly attention. Ratios, to the rung below and to stock, are medians of each turn's.

    python tools/benchmarks/rungs.py                         # builds every rung, then measures for 5 minutes
    python tools/benchmarks/rungs.py --lay-out FOLDER        # sources of every rung, and this program, for another machine
    python3 FOLDER/rungs.py --trees FOLDER --out RESULTS     # there: Python alone, cmake, ninja and a compiler; no network
    python3 FOLDER/rungs.py --trees FOLDER --prove           # each rung's own test, and nothing measured

`--trees` takes any folder that holds one source tree for each rung, in the order of their names: a whole one, such as
`kvsplit-patch apply` makes, or only the files that differ from the first one's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

#: The rungs' patches begin like this, or are named.
RUNGS, MORE = "cpu-attention-", ("amx-read-ahead",)
STOCK = "stock"
CACHES = {"f16": ("f16", "f16"), "K8V4": ("q8_0", "q4_0")}
PROMPT, ANSWER = 512, 32
#: Compares a rung with double precision.
TEST = Path("tests/test-flash-attn-cpu.cpp")

#: A llama of 28M parameters. Its weights (f16) are small beside a long cache.
N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_VOCAB = 8, 512, 8, 4, 1408, 4096

#: What llama-bench on a CPU is not made of.
_LEFT_OUT = re.compile(
    r"(\.git|\.github|benches|ci|docs|examples|gguf-py|media|models|out|pocs|tests)/|"
    r"ggml/src/ggml-(?!cpu/|common|impl|alloc|backend|opt|threading|quants)[a-z]+/"
)
_FLAGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DLLAMA_BUILD_NUMBER=0",
    "-DLLAMA_BUILD_COMMIT=rung",
]


# The sources


def source_trees() -> dict[str, Any]:
    """Rung -> the series' tree up to it, stock first."""
    from kvsplit_patch.series import patchset, trees

    names = patchset.load().names()
    chosen = [name for name in names if name.startswith(RUNGS) or name in MORE]
    return {STOCK: trees.unpatched()} | {name: trees.through(name) for name in chosen}


def lay_out(folder: Path) -> None:
    """Stock's sources, what each rung has that they do not, and this program. Raises SystemExit where something lies."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: name another folder.")
    stock: Path | None = None
    for number, (name, source) in enumerate(source_trees().items()):
        for file in sorted(source.folder.rglob("*")):
            path = file.relative_to(source.folder)
            if not file.is_file() or (path != TEST and _LEFT_OUT.match(f"{path.as_posix()}/")):
                continue
            if stock and (stock / path).is_file() and (stock / path).read_bytes() == file.read_bytes():
                continue
            target = folder / f"{number}-{name}" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            shutil.copymode(file, target)
        stock = stock or source.folder
    shutil.copy2(__file__, folder / "rungs.py")


# The builds


def build_series() -> dict[str, Path]:
    """Rung -> a folder with its llama-bench, as kvsplit-patch builds and keeps it."""
    from kvsplit_patch.building import artifacts, cmake
    from kvsplit_patch.echo import echo

    return {name: artifacts.tools(source, cmake.flags(), echo) for name, source in source_trees().items()}


def build_folder(trees: Path, work: Path) -> dict[str, Path]:
    """The same of the source trees in a folder, all at once.

    Stock is compiled whole, and of each rung the library that a rung changes. Raises SystemExit with the compiler's last
    lines.
    """
    folders = sorted(path for path in trees.iterdir() if path.is_dir() and path != work)
    if len(folders) < 2 or not (folders[0] / "CMakeLists.txt").is_file():
        raise SystemExit(
            f"{trees} does not begin with a whole source tree, followed by others: make it with --lay-out."
        )
    names = [re.sub(r"^\d+-", "", folder.name) for folder in folders]

    def build(folder: Path, name: str) -> Path:
        place = work / name
        if not (folder / "CMakeLists.txt").is_file():
            shutil.copytree(folders[0], place / "src", dirs_exist_ok=True)
        shutil.copytree(folder, place / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", "out"))
        _run("cmake", "-S", place / "src", "-B", place / "out", "-G", "Ninja", *_FLAGS)
        _run("ninja", "-C", place / "out", "llama-bench" if folder == folders[0] else "ggml")
        return place / "out" / "bin"

    with ThreadPoolExecutor(len(folders)) as pool:
        built = list(pool.map(build, folders, names))
    tools = {}
    for name, made in zip(names, built):
        tools[name] = work / name / "bin"
        shutil.copytree(built[0], tools[name], symlinks=True, dirs_exist_ok=True)
        shutil.copytree(made, tools[name], symlinks=True, dirs_exist_ok=True)
    return tools


def prove(tools: dict[str, Path], work: Path) -> None:
    """Run the test of every rung that has one. Raises SystemExit with what it printed where it fails."""
    for name, folder in tools.items():
        source = work / name / "src"
        if not (source / TEST).is_file():
            continue
        _run(
            *(
                os.environ.get("CXX", "c++"),
                "-std=c++17",
                "-O2",
                "-pthread",
                "-I",
                source / "ggml/include",
                source / TEST,
            ),
            *("-o", folder / TEST.stem, "-L", folder, "-lggml", "-lggml-cpu", "-lggml-base", "-Wl,-rpath,$ORIGIN"),
        )
        print(f"{name}: {_run(folder / TEST.stem, '-n', 20).splitlines()[-1]}")


def _run(*command: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


# The model


def write_model(path: Path) -> None:
    """A llama with random weights as a GGUF file, made with nothing but Python."""
    head = N_EMBD // N_HEAD
    shapes = {
        "token_embd.weight": (N_EMBD, N_VOCAB),
        "output.weight": (N_EMBD, N_VOCAB),
        "output_norm.weight": (N_EMBD,),
    }
    for i in range(N_LAYER):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (N_EMBD,),
            f"blk.{i}.ffn_norm.weight": (N_EMBD,),
            f"blk.{i}.attn_q.weight": (N_EMBD, N_EMBD),
            f"blk.{i}.attn_k.weight": (N_EMBD, N_HEAD_KV * head),
            f"blk.{i}.attn_v.weight": (N_EMBD, N_HEAD_KV * head),
            f"blk.{i}.attn_output.weight": (N_EMBD, N_EMBD),
            f"blk.{i}.ffn_gate.weight": (N_EMBD, N_FF),
            f"blk.{i}.ffn_up.weight": (N_EMBD, N_FF),
            f"blk.{i}.ffn_down.weight": (N_FF, N_EMBD),
        }
    fields: dict[str, str | int | float | list] = {
        "general.architecture": "llama",
        "llama.context_length": 65536,
        "llama.embedding_length": N_EMBD,
        "llama.block_count": N_LAYER,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": N_HEAD,
        "llama.attention.head_count_kv": N_HEAD_KV,
        "llama.rope.dimension_count": head,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(N_VOCAB)],
        "tokenizer.ggml.scores": [0.0] * N_VOCAB,
        "tokenizer.ggml.token_type": [1] * N_VOCAB,
    }
    with path.open("wb") as out:
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), len(fields)))
        for key, value in fields.items():
            out.write(_text(key) + struct.pack("<I", _kind(value)) + _value(value))
        at = 0
        for name, shape in shapes.items():
            out.write(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, len(shape) == 2, at))
            at += _padded(_bytes(shape))
        out.write(bytes(_padded(out.tell()) - out.tell()))
        for shape in shapes.values():
            _write_tensor(out, shape)


def _kind(value: str | int | float | list) -> int:
    return {str: 8, int: 4, float: 6, list: 9}[type(value)]


def _value(value: str | int | float | list) -> bytes:
    if isinstance(value, list):
        kind = 5 if isinstance(value[0], int) else _kind(value[0])  # the tokens' types have a sign, other integers none
        return struct.pack("<IQ", kind, len(value)) + b"".join(map(_value, value))
    return _text(value) if isinstance(value, str) else struct.pack("<I" if isinstance(value, int) else "<f", value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _bytes(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * 2 if len(shape) == 2 else shape[0] * 4


def _padded(size: int) -> int:
    return (size + 31) // 32 * 32


def _write_tensor(out: BinaryIO, shape: tuple[int, ...]) -> None:
    if len(shape) == 1:
        data = struct.pack("<f", 1.0) * shape[0]
    else:
        numbers = random.Random(out.tell())
        halves = bytearray(numbers.randbytes(_bytes(shape)))
        # sign and mantissa are random; the exponent makes them 1/32 to 1/16
        halves[1::2] = halves[1::2].translate(bytes(byte & 0x83 | 0x28 for byte in range(256)))
        data = bytes(halves)
    out.write(data.ljust(_padded(len(data)), b"\0"))


# The measurement


def measure(tools: dict[str, Path], threads: int, depth: int, minutes: float) -> list[dict[str, Any]]:
    """Tokens/s of every rung and cache, a sample a turn: as many turns as fit into ``minutes``, and at least three."""
    samples: dict[tuple[str, str, str], list[float]] = {}
    runs = [(name, cache) for cache in CACHES for name in tools]
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        write_model(model)
        began, turns = time.monotonic(), 0
        while turns < 3 or (time.monotonic() - began) * (turns + 1) / turns < minutes * 60:
            for name, cache in runs if turns % 2 else runs[::-1]:
                k, v = CACHES[cache]
                command = [tools[name] / "llama-bench", "-m", model, "-t", threads, "-fa", 1, "-ctk", k, "-ctv", v]
                command += ["-p", PROMPT, "-n", ANSWER, "-d", depth, "-r", 1, "-o", "json"]
                for row in json.loads(_run(*command)):
                    what = "decode" if row["n_gen"] else "prefill"
                    samples.setdefault((what, cache, name), []).append(row["avg_ts"])
                    print(f"turn {turns + 1}: {name} {cache} {what} {row['avg_ts']:.0f}", file=sys.stderr)
            turns += 1
    return [
        {"what": what, "cache": cache, "rung": name, "median": statistics.median(values), "samples": values}
        for (what, cache, name), values in samples.items()
    ]


def this_machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names, flags = re.findall(r"model name\s*: (.*)", info), re.findall(r"(?:flags|Features)\s*: (.*)", info)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimddp", "i8mm", "bf16", "sve")
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "features": [name for name in known if flags and name in flags[0].split()],
        "compiler": _run(os.environ.get("CXX", "c++"), "--version").partition("\n")[0],
        "system": platform.platform(terse=True),
    }


def markdown(data: dict[str, Any]) -> str:
    by = {(row["what"], row["cache"], row["rung"]): row for row in data["rows"]}
    m = data["machine"]
    lines = [
        "# What each rung gains",
        "",
        f"{m['cpu']}, {m['cores']} cores ({', '.join(m['features'])}), {m['compiler']}, {data['threads']} threads, "
        f"{data['date']}. Behind {data['depth']} tokens: a prompt of {PROMPT}, an answer of {ANSWER}. Medians (least–greatest) "
        "in tokens/s, all rungs taking turns; ratios are medians of each turn's. Random llama of 28M parameters with f16 "
        "weights. Made by `tools/benchmarks/rungs.py`.",
    ]
    for what in ("decode", "prefill"):
        for cache in CACHES:
            lines += ["", f"## {what.capitalize()}, {cache}", "", "| rung | tokens/s | to the rung below | to stock |"]
            lines.append("|---|---:|---:|---:|")
            below = None
            for name in data["rungs"]:
                row = by[what, cache, name]
                low, high = min(row["samples"]), max(row["samples"])
                ratios = [_ratio(row, below), _ratio(row, by[what, cache, data["rungs"][0]])] if below else ["", ""]
                lines.append(f"| {name} | {row['median']:.0f} ({low:.0f}–{high:.0f}) | {' | '.join(ratios)} |")
                below = row
    return "\n".join(lines) + "\n"


def _ratio(row: dict[str, Any], other: dict[str, Any]) -> str:
    return f"{statistics.median(a / b for a, b in zip(row['samples'], other['samples'])):.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"), help="folder for rungs.json and rungs.md")
    parser.add_argument("--lay-out", type=Path, metavar="FOLDER", help="only write what another machine needs")
    parser.add_argument("--trees", type=Path, metavar="FOLDER", help="source trees that were laid out before")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where --trees compiles  [default: a temporary one]"
    )
    parser.add_argument(
        "--prove", action="store_true", help="of --trees: run each rung's own test, and measure nothing"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--depth", type=int, default=4096, metavar="TOKENS", help="in the cache before  [default: 4096]"
    )
    parser.add_argument("--minutes", type=float, default=5, help="to measure for, building not counted  [default: 5]")
    given = parser.parse_args()
    if given.prove and not given.trees:
        parser.error("--prove is for --trees: here, run 'pytest --build tests/builds/test_cpu_attention.py'")
    if given.lay_out:
        lay_out(given.lay_out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        tools = build_folder(given.trees, work) if given.trees else build_series()
        if given.prove:
            prove(tools, work)
            return
        rows = measure(tools, given.threads, given.depth, given.minutes)
    data = {
        "machine": this_machine(),
        "date": time.strftime("%Y-%m-%d"),
        "threads": given.threads,
        "depth": given.depth,
        "rungs": list(tools),
        "rows": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    for name, text in (("rungs.json", json.dumps(data, indent=1) + "\n"), ("rungs.md", markdown(data))):
        part = given.out / f".{name}.part"
        part.write_text(text)
        part.replace(given.out / name)
    print(markdown(data))


if __name__ == "__main__":
    main()
