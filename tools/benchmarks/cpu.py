#!/usr/bin/env python
"""Attention on a CPU over f16, quantized and mixed KV caches: the series against the same commit without it.

Runs of the two builds and of all caches take turns, on a model with random weights whose time is mostly attention. The
cache of a depth is computed once, by the patched build, and read from a file by both, so that stock's slow prefill is not
waited for before every run. Ratios are the result; the numbers themselves are this machine's.

    python tools/benchmarks/cpu.py                            # builds both, then measures: about 25 minutes on 2 cores
    python tools/benchmarks/cpu.py --cache K8V4               # one cache alone, added to what was measured before
    python tools/benchmarks/cpu.py --tools STOCK PATCHED      # folders with the libraries of both, built before
    python tools/benchmarks/cpu.py --instructions             # callgrind's count of one decode step, at leisure
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import evidence  # beside this file: a program has no package
from evidence import PAIRS

from kvsplit_patch.proof.programs import llama_bench
from llm_kvsplit import machine
from llm_kvsplit.kvtypes import CachePair


@dataclass(frozen=True)
class Shape:
    """Of a llama: layers, and the sizes of what is in them."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


#: 28M parameters. Its weights are small beside a long cache.
SHAPE = Shape(n_layer=8, n_embd=512, n_head=8, n_head_kv=4, n_ff=1408, n_vocab=4096)

#: Depth -> how many of the runs there time a prompt, too; stock takes long for one.
DEPTHS = {0: 7, 2048: 7, 8192: 3, 32768: 3}
TURNS = 7
PROMPT, ANSWER, WHOLE = 512, 32, 8192
#: Stock computes the whole of these once; of the others, not even that.
WHOLE_OF_STOCK = ("f16", "K8V4")
#: Prompts that take stock a minute or more are left out.
TOO_SLOW = {(32768, pair) for pair in ("K8V8", "K8V4", "K4V4")}


def write_model(path: Path, shape: Shape = SHAPE) -> int:
    """A model of random f16 weights as a GGUF file; returns the bytes of weights that one decode step reads.

    All layers have the same weights, each in a place of its own: what takes long is to draw them.
    """
    import numpy as np
    from gguf import GGUFWriter, TokenType

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(65536)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(shape.n_vocab)])
    writer.add_token_scores([0.0] * shape.n_vocab)
    writer.add_token_types([TokenType.NORMAL] * shape.n_vocab)
    random = np.random.default_rng(0)
    read = 0

    def weight(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns), np.float32) / columns**0.5).astype(np.float16)

    def add(name: str, value: np.ndarray) -> None:
        nonlocal read
        writer.add_tensor(name, value)
        read += 0 if name.startswith("token_embd") else value.nbytes

    width, wide, kv = shape.n_embd, shape.n_ff, shape.n_head_kv * shape.head_dim
    layer = {
        "attn_norm": np.ones(width, np.float32),
        "ffn_norm": np.ones(width, np.float32),
        "attn_q": weight(width, width),
        "attn_k": weight(kv, width),
        "attn_v": weight(kv, width),
        "attn_output": weight(width, width),
        "ffn_gate": weight(wide, width),
        "ffn_up": weight(wide, width),
        "ffn_down": weight(width, wide),
    }
    add("token_embd.weight", weight(shape.n_vocab, width))
    add("output.weight", weight(shape.n_vocab, width))
    add("output_norm.weight", np.ones(width, np.float32))
    for i in range(shape.n_layer):
        for name, value in layer.items():
            add(f"blk.{i}.{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def run(folder: Path, **job) -> dict:
    """``child(**job)`` in a process that loads the libraries in ``folder``."""
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{job} with {folder} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def child(
    model: str,
    pair: list[int],
    threads: int,
    size: int,
    load: str = "",
    save: dict[str, str] | None = None,
    timed: str = "",
) -> dict:
    """Prefill ``size`` tokens, or take them from the file ``load``; then time what ``timed`` says behind them.

    ``save``: token count -> file to store the cache in when it holds so many. ``timed``: some of prefill, decode, shallow
    (decoding behind nothing, seconds later), in tokens/s.
    """
    import llama_cpp as cpp
    import numpy as np

    quiet = cpp.llama_log_callback(lambda level, text, data: None)
    cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    cpp.llama_backend_init()
    loaded = cpp.llama_model_load_from_file(model.encode(), cpp.llama_model_default_params())
    params = cpp.llama_context_default_params()
    params.n_ctx = size + 1024
    params.n_batch = params.n_ubatch = PROMPT
    params.n_threads = params.n_threads_batch = threads
    params.type_k, params.type_v = pair
    params.flash_attn_type = 1
    context = cpp.llama_init_from_model(loaded, params)
    memory = cpp.llama_get_memory(context)
    tokens = np.random.default_rng(1).integers(3, SHAPE.n_vocab, size + 1024).astype(np.int32)
    no_tokens = (cpp.llama_token * 1)()

    def decode(start: int, count: int, at_once: int) -> float:
        began = time.perf_counter()
        for i in range(start, start + count, at_once):
            some = tokens[i : i + min(at_once, start + count - i)]
            batch = cpp.llama_batch_get_one(some.ctypes.data_as(ctypes.POINTER(cpp.llama_token)), len(some))
            if cpp.llama_decode(context, batch) != 0:
                raise SystemExit("llama_decode failed")
        cpp.llama_synchronize(context)
        return time.perf_counter() - began

    def forget(start: int) -> None:
        cpp.llama_memory_seq_rm(memory, 0, start, -1)

    decode(0, 16, 16)  # reads the weights and wakes the threads
    forget(0)
    result: dict = {}
    if load:
        if not cpp.llama_state_seq_load_file(context, load.encode(), 0, no_tokens, 1, ctypes.byref(ctypes.c_size_t())):
            raise SystemExit("the stored cache does not load")
    else:
        done = 0
        save = save or {}
        for stop in sorted({*map(int, save), size}):
            result[str(stop)] = result.get(str(done), 0.0) + decode(done, stop - done, PROMPT)
            if str(stop) in save and not cpp.llama_state_seq_save_file(
                context, save[str(stop)].encode(), 0, no_tokens, 0
            ):
                raise SystemExit("the cache cannot be stored")
            done = stop
    if "prefill" in timed:
        result["prefill"] = PROMPT / decode(size, PROMPT, PROMPT)
        forget(size)
    if "decode" in timed:
        decode(size, 2, 1)
        result["decode"] = ANSWER / decode(size + 2, ANSWER, 1)
    if "shallow" in timed:
        forget(0)
        decode(0, 2, 1)
        result["shallow"] = ANSWER / decode(2, ANSWER, 1)
    return result


def read_bandwidth(threads: int, places: int) -> float:
    """GB/s that ``threads`` threads read together from memory, each one place after the other or from two in turn: the best
    of a few tries. Memory is the faster the more of its pages are read at a time."""
    size = 2**29  # beyond any cache
    buffers = [ctypes.create_string_buffer(size) for _ in range(threads)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, size)
    libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    libc.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]  # ctypes lets other threads run meanwhile
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def read(buffer: ctypes.Array) -> None:
        if places == 1:
            libc.memchr(buffer, 0, size)
        else:
            libc.memcmp(buffer, ctypes.addressof(buffer) + size // 2, size // 2)

    best = 0.0
    for _ in range(8):
        workers = [threading.Thread(target=read, args=(buffer,)) for buffer in buffers]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, threads * size / (time.perf_counter() - began) / 1e9)
    return best


def bench(stock: Path, patched: Path, threads: int, pairs: list[CachePair]) -> dict:
    """Tokens/s of everything, with each sample; and what one decode step and this machine read."""
    builds = {"stock": stock, "patched": patched}
    samples: dict[tuple, list[float]] = {}

    def note(what: str, depth: int, pair: str, build: str, value: float) -> None:
        samples.setdefault((what, depth, pair, build), []).append(value)
        print(f"{pair} {what} at {depth}, {build}: {value:.1f} tokens/s", file=sys.stderr)

    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        weights = write_model(model)
        bandwidth = [read_bandwidth(threads, places) for places in (1, 2)]
        deep = max(DEPTHS)
        common = {
            pair: dict(model=str(model), pair=[pair.k.ggml_id, pair.v.ggml_id], threads=threads) for pair in pairs
        }
        files = {pair: {str(depth): f"{scratch}/{pair}-{depth}" for depth in DEPTHS if depth} for pair in pairs}
        for pair in pairs:
            times = run(patched, **common[pair], size=deep, save=files[pair])
            note("whole", WHOLE, str(pair), "patched", WHOLE / times[str(WHOLE)])
            note("whole", deep, str(pair), "patched", deep / times[str(deep)])
            if str(pair) in WHOLE_OF_STOCK:
                note("whole", WHOLE, str(pair), "stock", WHOLE / run(stock, **common[pair], size=WHOLE)[str(WHOLE)])
        for depth, prompts in DEPTHS.items():
            for turn in range(TURNS):
                for pair in pairs:
                    for build in ("stock", "patched") if turn % 2 else ("patched", "stock"):
                        timed = "decode shallow"
                        if turn < prompts and not (build == "stock" and (depth, str(pair)) in TOO_SLOW):
                            timed = "prefill " + timed
                        load = files[pair].get(str(depth), "")
                        got = run(builds[build], **common[pair], size=depth, load=load, timed=timed)
                        for what in timed.split():
                            note(what, depth, str(pair), build, got[what])
        bandwidth = [max(before, read_bandwidth(threads, places)) for places, before in enumerate(bandwidth, 1)]
    rows = [
        dict(what=what, depth=depth, cache=pair, build=build, median=statistics.median(values), samples=values)
        for (what, depth, pair, build), values in samples.items()
    ]
    return dict(read_gb_s=bandwidth[0], read_two_places_gb_s=bandwidth[1], weight_bytes=weights, rows=rows)


def cache_bytes(pair: CachePair, tokens: int) -> float:
    return evidence.cache_bytes(pair, tokens, n_layer=SHAPE.n_layer, n_head_kv=SHAPE.n_head_kv, head_dim=SHAPE.head_dim)


def instructions(stock: Path, patched: Path, pairs: list[CachePair]) -> dict:
    """Instructions of one decode step at depth 512 with one thread, as callgrind counts them: all, and attention's.

    Each is the difference of two runs, of 9 tokens and of 1. Valgrind knows no AVX-512, so the builds are AVX2's.
    """
    counts: dict = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        write_model(model)
        for pair in pairs:
            for build, folder in (("stock", stock), ("patched", patched)):
                step = {}
                for n in (1, 9):
                    out = Path(scratch) / "callgrind"
                    load = llama_bench.Load(prompt=0, answer=n, depth=512, repeats=1)
                    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", folder / "llama-bench"]
                    command += [*llama_bench.arguments(model, pair, load), "-t", 1, "--no-warmup"]
                    subprocess.run([str(word) for word in command], check=True, capture_output=True)
                    annotate = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)]
                    annotated = subprocess.run(annotate, check=True, capture_output=True, text=True).stdout
                    for name, pattern in (
                        ("all", "PROGRAM TOTALS"),
                        ("attention", "ggml_compute_forward_flash_attn_ext "),
                    ):
                        lines = [line for line in annotated.splitlines() if pattern in line + " "]
                        step.setdefault(name, []).append(int(re.sub(r"[ ,]", "", lines[0].split("(")[0])))
                counts.setdefault(str(pair), {})[build] = {name: (b - a) // 8 for name, (a, b) in step.items()}
                print(pair, build, counts[str(pair)][build], file=sys.stderr)
    return counts


def this_machine() -> dict:
    flags = machine.cpu_flags().split()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimddp")
    return dict(
        cpu=machine.cpu_name(),
        cores=os.cpu_count(),
        features=[name for name in known if name in flags],
        system=platform.platform(terse=True),
    )


def markdown(data: dict) -> str:
    by = {(row["what"], row["depth"], row["cache"], row["build"]): row for row in data["rows"]}

    def cell(what: str, depth: int, pair: str, build: str) -> str:
        return evidence.spread(by.get((what, depth, pair, build), {}).get("samples", []))

    def ratio(a: tuple, b: tuple) -> str:
        return evidence.ratio(*(by.get(each, {}).get("samples", []) for each in (a, b)))

    def of_limit(read: float, seconds: float) -> str:
        return f"{read / seconds / data['read_gb_s'] / 1e9:.0%}"

    lines = [
        "# Attention on a CPU",
        "",
        f"{evidence.machine(data['machine'], data['threads'])}, read bandwidth "
        f"{data['read_gb_s']:.1f} GB/s, or {data['read_two_places_gb_s']:.1f} if each reads from two places in turn. Random "
        f"llama of 28M parameters: {SHAPE.n_layer} layers, {SHAPE.n_head} heads, {SHAPE.n_head_kv} KV heads x {SHAPE.head_dim}, f16 weights. llama.cpp "
        f"{data['commit'][:12]}, {data['date']}. Medians (least–greatest) in tokens/s, runs of both builds "
        "taking turns; ratios are medians of each turn's. Made by `tools/benchmarks/cpu.py`.",
        "",
        "## Prefill of a whole prompt",
        "",
        "| tokens | cache | stock | patched | ratio | to stock f16 |",
        "|---|---|---|---|---|---|",
    ]
    for depth in sorted({depth for what, depth, *_ in by if what == "whole"}):
        for pair in map(str, PAIRS):
            key = ("whole", depth, pair, "patched")
            to_f16 = ratio(key, ("whole", depth, "f16", "stock"))
            lines.append(
                f"| {depth} | {pair} | {cell(*key[:3], 'stock')} | {cell(*key)} | {ratio(key, (*key[:3], 'stock'))} | {to_f16} |"
            )
    for what, title in (("prefill", f"Prefill of {PROMPT} tokens"), ("decode", f"Decode of {ANSWER} tokens")):
        lines += ["", f"## {title}", ""]
        extra = " of the read limit: stock | patched | its attention |" if what == "decode" else ""
        lines.append("| depth | cache | stock | patched | ratio | to patched f16 |" + extra)
        lines.append("|---|---|---|---|---|---|" + ("---|---|---|" if extra else ""))
        for depth in DEPTHS:
            for pair in PAIRS:
                key = (what, depth, str(pair), "patched")
                line = f"| {depth} | {pair} | {cell(what, depth, str(pair), 'stock')} | {cell(*key)} "
                line += f"| {ratio(key, (*key[:3], 'stock'))} | {ratio(key, (what, depth, 'f16', 'patched'))} |"
                if extra:
                    cache = cache_bytes(pair, depth + ANSWER // 2)
                    for build in ("stock", "patched"):
                        row = by.get((*key[:3], build))
                        line += f" {of_limit(data['weight_bytes'] + cache, 1 / row['median'])} |" if row else " – |"
                    none = by.get(("shallow", *key[1:]))
                    if depth and none and key in by:
                        longer = statistics.median(1 / x - 1 / y for x, y in zip(by[key]["samples"], none["samples"]))
                        line += f" {of_limit(cache_bytes(pair, depth), longer)} |"
                    else:
                        line += " – |"
                lines.append(line)
    mib = ", ".join(f"{pair} {(data['weight_bytes'] + cache_bytes(pair, 8192)) / 1e6:.0f}" for pair in PAIRS)
    lines += [
        "",
        f"The read limit is the first bandwidth over the bytes that a step reads; at depth 8192, in MB: {mib}.",
    ]
    lines += [
        "Its attention: the bytes of the cache in the time by which a step is longer than behind nothing, seconds later."
    ]
    if data.get("instructions"):
        lines += ["", "## Instructions of a decode step at depth 512", ""]
        lines += [
            "As callgrind counts them, AVX2 builds, one thread, in millions: the attention operations (the whole step).",
            "",
        ]
        lines += ["| cache | stock | patched | ratio |", "|---|---|---|---|"]
        for pair, counts in data["instructions"].items():
            cells = " | ".join(
                f"{counts[b]['attention'] / 1e6:.1f} ({counts[b]['all'] / 1e6:.1f})" for b in ("stock", "patched")
            )
            lines.append(f"| {pair} | {cells} | {counts['patched']['attention'] / counts['stock']['attention']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"), help="folder for cpu.json and cpu.md")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--tools", type=Path, nargs=2, metavar=("STOCK", "PATCHED"), help="folders of builds made before"
    )
    parser.add_argument("--cache", choices=[str(pair) for pair in PAIRS], action="append", help="measure these only")
    parser.add_argument("--instructions", action="store_true", help="only callgrind's counts, added to what is there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(**json.loads(given.child))))
        return

    from kvsplit_patch.building import artifacts, cmake
    from kvsplit_patch.echo import echo
    from kvsplit_patch.series import trees

    source = trees.patched()
    if given.tools:
        for folder in given.tools:
            if not any(folder.glob("*llama.*")):
                parser.error(
                    f"there is no library of llama.cpp in {folder}: name the folders of two builds, or leave --tools out"
                )
        stock, patched = given.tools
    else:
        flags = cmake.flags()
        if given.instructions:
            flags = tuple("-DGGML_NATIVE=OFF" if flag == "-DGGML_NATIVE=ON" else flag for flag in flags)
        stock, patched = (artifacts.tools(tree, flags, echo) for tree in (trees.unpatched(), source))
    data = evidence.read(given.out, "cpu")
    pairs = [pair for pair in PAIRS if str(pair) in (given.cache or map(str, PAIRS))]
    if given.instructions:
        data["instructions"] = data.get("instructions", {}) | instructions(stock, patched, pairs)
    else:
        new = bench(stock, patched, given.threads, pairs)
        new["rows"] = [row for row in data.get("rows", []) if row["cache"] not in map(str, pairs)] + new["rows"]
        data |= new | dict(machine=this_machine(), threads=given.threads)
        data |= dict(commit=source.commit, tree=source.tree, date=str(date.today()))
    evidence.write(given.out, "cpu", data, markdown(data) if "rows" in data else "")


if __name__ == "__main__":
    main()
