#!/usr/bin/env python
"""Whole models on a CPU: the series, ik_llama.cpp and stock llama.cpp, llama-bench of each, taking turns.

ik_llama.cpp's sources are in the sdist ``ik-llama-cpp-python``, under ``vendor``. All three are compiled for this very CPU.
ik_llama.cpp has its flash attention for all pairs (GGML_IQK_FA_ALL_QUANTS), and runs with -fa; its run-time repacking of
weights (-rtr) is measured beside that. Each result is stored at once, so a run may be ended at any time, and goes on there.

    python tools/benchmarks/rivals.py MODEL.gguf... --ik IK_LLAMA_CPP       # 20 minutes a turn and model on 2 cores
    python tools/benchmarks/rivals.py --page                                # the page again, of what was measured
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import attention_op  # beside this file: a program has no package
import cpu
import evidence

from kvsplit_patch.proof.programs import llama_bench
from llm_kvsplit.kvtypes import CachePair

OURS, IK, REPACKED, STOCK = "ours", "ik_llama.cpp", "ik_llama.cpp -rtr", "stock"
ANSWER = 32
#: In the order of what is asked most.
PROMPTS = (4096, 8192, 512)
DEPTHS = (4096, 8192, 0)
#: At these alone the other caches are measured, and fewer threads.
OTHERS_AT = 4096
#: Stock reads longer prompts for minutes: these, and decoding behind them, it is spared.
STOCK_MOST = {"f16": 4096, "K8V4": 512}

#: One attention alone: query heads on KV heads, and the size of a head, K8V4 with so many keys.
HEADS = [(heads, kv_heads, size) for size in (64, 128, 256) for heads, kv_heads in ((8, 8), (16, 4), (32, 4))]
KEYS = 4096


@dataclass(frozen=True)
class Job:
    """One run of llama-bench: a prompt of ``tokens``, or an answer behind so many."""

    what: str
    cache: str
    tokens: int
    threads: int

    def arguments(self, program: str) -> list[str]:
        """What tells ``program`` to do it. ik_llama.cpp has no -d: it fills the cache by a prompt that is not timed."""
        words = ["-t", str(self.threads), "-r", "1"]
        if self.what == "prompt":
            return [*words, "-p", str(self.tokens), "-n", "0"]
        if program in (OURS, STOCK):
            return [*words, "-p", "0", "-n", str(ANSWER), "-d", str(self.tokens)]
        if self.tokens == 0:
            return [*words, "-p", "0", "-n", str(ANSWER)]
        return [*words, "-p", "0", "-n", "0", "-gp", f"{self.tokens},{ANSWER}"]

    def programs(self, most_threads: int) -> list[str]:
        """Who does it. Stock and repacked weights are for all threads alone."""
        stock = [STOCK] if self.tokens <= STOCK_MOST.get(self.cache, -1) else []
        return [OURS, IK] if self.threads < most_threads else [OURS, IK, REPACKED, *stock]


def jobs(most_threads: int) -> list[Job]:
    usual = [str(pair) for pair in evidence.PAIRS if str(pair) in STOCK_MOST]
    others = [str(pair) for pair in evidence.PAIRS if str(pair) not in STOCK_MOST]
    all_of = [Job("prompt", cache, tokens, most_threads) for tokens in PROMPTS for cache in usual]
    all_of += [Job("answer", cache, tokens, most_threads) for tokens in DEPTHS for cache in usual]
    all_of += [Job(what, cache, OTHERS_AT, most_threads) for what in ("prompt", "answer") for cache in others]
    return all_of + [Job("answer", cache, OTHERS_AT, few) for few in _fewer(most_threads) for cache in usual]


def _fewer(threads: int) -> list[int]:
    return [2**i for i in range(10) if 2**i < threads]


def build_ik(sources: Path, folder: Path) -> Path:
    """llama-bench of ik_llama.cpp, with two files that its sdist leaves out."""
    for name in ("common/cmake/build-info-gen-cpp.cmake", "ggml/ggml.pc.in"):
        (sources / name).parent.mkdir(exist_ok=True)
        (sources / name).touch()
    info = "".join(f'char const * LLAMA_{name} = "sdist";\n' for name in ("COMMIT", "COMPILER", "BUILD_TARGET"))
    (sources / "common" / "build-info.cpp").write_text(f"int LLAMA_BUILD_NUMBER = 0;\n{info}")
    off = ["LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER", "BUILD_SHARED_LIBS"]
    flags = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON",
        "-DGGML_IQK_FA_ALL_QUANTS=ON",
        *(f"-D{n}=OFF" for n in off),
    ]
    subprocess.run(["cmake", "-S", sources, "-B", folder, "-G", "Ninja", *flags], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", folder, "llama-bench"], check=True, stdout=sys.stderr)
    return folder / "bin"


def builds(ik_sources: Path, ik_folder: Path, tools: Sequence[Path] | None) -> dict[str, Path]:
    """The folder of each llama-bench."""
    from kvsplit_patch.building import artifacts, cmake
    from kvsplit_patch.echo import echo
    from kvsplit_patch.series import trees

    stock, ours = tools or (artifacts.tools(tree, cmake.flags(), echo) for tree in (trees.unpatched(), trees.patched()))
    ik = build_ik(ik_sources, ik_folder.resolve())
    return {OURS: ours.resolve(), IK: ik, REPACKED: ik, STOCK: stock.resolve()}


def libraries(name: str, folders: dict[str, Path]) -> Path:
    """The folder in or below which those of one of ``builds`` lie."""
    return folders[name].parent if name in (IK, REPACKED) else folders[name]


def attention_programs(folders: dict[str, Path], ik_sources: Path, scratch: Path) -> dict[str, Path]:
    """Of one attention alone, ours and ik_llama.cpp's, made in ``scratch``."""
    from kvsplit_patch.series import trees

    sources = {OURS: trees.patched().folder, IK: ik_sources}
    compiler = ["c++", "-fopenmp"]
    return {
        name: attention_op.linked(of / "ggml", libraries(name, folders), scratch / f"attention-{name}", compiler)
        for name, of in sources.items()
    }


def version(ik_sources: Path) -> str:
    """Of the sdist that the sources are from."""
    facts = [folder / "PKG-INFO" for folder in ik_sources.resolve().parents[:2]]
    text = next((file.read_text() for file in facts if file.is_file()), "")
    names = re.findall("^(?:Name|Version): (.+)$", text, re.MULTILINE)
    return f"that of the sdist {' '.join(names)}" if names else "of unknown version"


def weight_bytes(model: Path) -> int:
    """Bytes of weights that one decode step reads. Where there is no matrix of its own for the output, it is the tokens'."""
    from gguf import GGUFReader

    tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(model).tensors}
    return sum(tensors.values()) - ("output.weight" in tensors) * tensors["token_embd.weight"]


def shape(model: Path) -> dict[str, int]:
    from gguf import GGUFReader

    reader = GGUFReader(model)
    arch = reader.fields["general.architecture"].contents()
    number = {name: reader.fields[f"{arch}.{name}"].contents() for name in ("block_count", "attention.head_count_kv")}
    heads, width = (reader.fields[f"{arch}.{name}"].contents() for name in ("attention.head_count", "embedding_length"))
    return dict(n_layer=number["block_count"], n_head_kv=number["attention.head_count_kv"], head_dim=width // heads)


def tokens_per_second(folder: Path, program: str, model: Path, job: Job) -> float:
    pair = CachePair.parse(job.cache)
    words = ["-m", model, "-fa", 1, "-ctk", pair.k.name, "-ctv", pair.v.name, *job.arguments(program)]
    words += ["-rtr", 1] if program == REPACKED else []
    # Awake, as they are between a token's steps where nobody sets this. Asleep, a token takes up to twice as long.
    environment = {"LD_LIBRARY_PATH": str(folder), "OMP_WAIT_POLICY": "active"}
    rows = llama_bench.rows(folder, words, environment, f" of {program}")
    return rows[-1].tokens_per_second


def measure_models(
    data: dict[str, Any], folders: dict[str, Path], models: Sequence[Path], threads: int, turns: int
) -> Iterator[None]:
    """Yields after each new sample, until there are ``turns`` of all."""
    for turn in range(turns):
        for model in models:
            of_model = data.setdefault("models", {}).setdefault(model.name, {})
            of_model.update(weight_bytes=weight_bytes(model), shape=shape(model))
            rows = of_model.setdefault("rows", [])
            for job in jobs(threads):
                programs = job.programs(threads)
                for program in programs if turn % 2 else reversed(programs):
                    key = dict(vars(job), program=program)
                    row = next((row for row in rows if key.items() <= row.items()), None)
                    if row is None:
                        rows.append(row := key | {"samples": []})
                    if len(row["samples"]) <= turn:
                        row["samples"].append(tokens_per_second(folders[program], program, model, job))
                        print(f"{model.name}, {job}, {program}: {row['samples'][-1]:.1f} tokens/s", file=sys.stderr)
                        yield


def measure_attention(data: dict[str, Any], programs: dict[str, Path], threads: int, turns: int) -> Iterator[None]:
    """Yields after each turn of one attention alone, until there are ``turns``."""
    cases = [("q8_0", "q4_0", KEYS, *heads, tokens) for heads in HEADS for tokens in (1, 512)]
    rows = data.setdefault("attention", {name: [] for name in programs})
    for turn in range(len(rows[OURS]), turns):
        names = list(programs) if turn % 2 else list(reversed(programs))
        new = {name: attention_op.measured(programs[name], threads, cases, 3) for name in names}
        for name in names:
            rows[name].append([row["ms"] for row in new[name]])
        yield


def markdown(data: dict[str, Any]) -> str:
    lines = [
        "# Whole models on a CPU, beside ik_llama.cpp",
        "",
        f"{evidence.machine(data['machine'], data['threads'])}, {data['date']}. llama-bench of "
        f"each, taking turns, -fa 1; ik_llama.cpp is {data['ik']}, with GGML_IQK_FA_ALL_QUANTS. Medians (least–greatest) in "
        "tokens/s; ratios are medians of each turn's. Threads wait awake (OMP_WAIT_POLICY=active). Made by "
        "`tools/benchmarks/rivals.py`.",
    ]
    for name, of_model in data.get("models", {}).items():
        lines += ["", f"## {name}"]
        lines += _speeds(of_model["rows"], data["threads"])
        lines += _read_rates(of_model, data["read_gb_s"])
    lines += ["", "## One attention alone", "", f"K8V4, {KEYS} keys, in ms.", ""]
    lines += ["| heads | size | tokens | ours | ik_llama.cpp | times as fast |", "|---|---:|---:|---:|---:|---:|"]
    cases = [(*heads, tokens) for heads in HEADS for tokens in (1, 512)]
    for at, (heads, kv_heads, size, tokens) in enumerate(cases):
        ours, ik = ([turn[at] for turn in data["attention"][name]] for name in (OURS, IK))
        cells = [
            f"{heads} on {kv_heads}",
            size,
            tokens,
            f"{statistics.median(ours):.2f}",
            f"{statistics.median(ik):.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} | {statistics.median(b / a for a, b in zip(ours, ik)):.2f} |")
    return "\n".join(lines) + "\n"


def _speeds(rows: list[dict[str, Any]], threads: int) -> list[str]:
    by = {
        (row["what"], row["cache"], row["tokens"], row["program"]): row["samples"]
        for row in rows
        if row["threads"] == threads
    }
    titles = {"prompt": "A prompt of so many tokens", "answer": f"An answer of {ANSWER} tokens behind so many"}
    caches = [str(pair) for pair in evidence.PAIRS]
    lines = []
    for what, title in titles.items():
        lines += [
            "",
            f"### {title}",
            "",
            f"| tokens | cache | {' | '.join((OURS, IK, REPACKED, STOCK))} | ours to ik | to -rtr |",
        ]
        lines.append("|---:|---|" + "---:|" * 6)
        keys = {key[:3] for key in by if key[0] == what}
        for _, cache, tokens in sorted(keys, key=lambda key: (key[2], caches.index(key[1]))):
            samples = [by.get((what, cache, tokens, program), []) for program in (OURS, IK, REPACKED, STOCK)]
            cells = [evidence.spread(values) for values in samples]
            cells += [evidence.ratio(samples[0], rival) for rival in samples[1:3]]
            lines.append(f"| {tokens} | {cache} | {' | '.join(cells)} |")
    return lines


def _read_rates(of_model: dict[str, Any], read_gb_s: dict[str, float]) -> list[str]:
    """What a step reads, weights and cache, in the time it takes, over what so many threads read alone."""
    lines = ["", f"### How near memory: an answer behind {OTHERS_AT} tokens", ""]
    lines += [
        "| threads | memory, GB/s | cache | ours, GB/s | of memory | ik_llama.cpp, GB/s | of memory |",
        "|---:|---:|---|" + "---:|" * 4,
    ]
    rows = [row for row in of_model["rows"] if (row["what"], row["tokens"]) == ("answer", OTHERS_AT)]
    for threads, memory in read_gb_s.items():
        for cache in dict.fromkeys(row["cache"] for row in rows if row["threads"] == int(threads)):
            size = of_model["weight_bytes"]
            size += evidence.cache_bytes(CachePair.parse(cache), OTHERS_AT + ANSWER // 2, **of_model["shape"])
            cells = [threads, f"{memory:.1f}", cache]
            for program in (OURS, IK):
                key = dict(cache=cache, threads=int(threads), program=program)
                samples = next((row["samples"] for row in rows if key.items() <= row.items()), [])
                rate = size * statistics.median(samples or [0]) / 1e9
                cells += [f"{rate:.1f}", f"{rate / memory:.0%}"] if samples else ["–", "–"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL", help="GGUF files")
    parser.add_argument("--ik", type=Path, metavar="FOLDER", help="ik_llama.cpp's sources")
    parser.add_argument(
        "--ik-build", type=Path, metavar="FOLDER", help="where they are compiled  [default: a temporary one]"
    )
    parser.add_argument(
        "--tools",
        type=Path,
        nargs=2,
        metavar=("STOCK", "PATCHED"),
        help="folders with llama-bench and libraries of both",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"), help="folder for rivals.json and rivals.md")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args()
    data = evidence.read(given.out, "rivals")
    if given.page:
        evidence.write(given.out, "rivals", data, markdown(data))
        return
    if not given.models or not given.ik:
        parser.error("name the models, and ik_llama.cpp's sources with --ik")
    with tempfile.TemporaryDirectory() as scratch:
        ik = given.ik.resolve()
        folders = builds(ik, given.ik_build or Path(scratch) / "ik", given.tools)
        attention = attention_programs(folders, ik, Path(scratch))
        memory = {str(threads): cpu.read_bandwidth(threads, 2) for threads in (*_fewer(given.threads), given.threads)}
        before = data.get("read_gb_s", {})
        data |= dict(machine=cpu.this_machine(), threads=given.threads, ik=version(given.ik), date=str(date.today()))
        data |= dict(read_gb_s={threads: max(rate, before.get(threads, 0.0)) for threads, rate in memory.items()})
        models = measure_models(data, folders, given.models, given.threads, given.turns)
        for _ in chain(measure_attention(data, attention, given.threads, given.turns), models):
            evidence.write(given.out, "rivals", data, markdown(data))


if __name__ == "__main__":
    main()
