#!/usr/bin/env python
"""Whole models on a CPU, at depth: the series, ik_llama.cpp and stock llama.cpp in turns of about a second.

A turn of llama-bench takes minutes at depth, and on a shared machine the next may differ by a third. Here each program
loads the model once, fills a cache, and keeps it. They take turns in an order drawn anew each time, prompts 512 tokens at
a time, and whoever is not at work is stopped, with the threads that wait in it. So a ratio is of neighbouring seconds.

    python tools/benchmarks/depths.py --ik IK_LLAMA_CPP                 # builds all, TinyLlama's shape, random weights
    python tools/benchmarks/depths.py --model MODEL.gguf --programs FOLDER   # with programs compiled there before
    python tools/benchmarks/depths.py --page                             # the page again, of what was measured
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import attention_op  # beside this file: a program has no package
import cpu
import evidence
import rivals
from rivals import IK, OURS, STOCK

from llm_kvsplit.kvtypes import CachePair

PROGRAM = Path(__file__).with_suffix(".cpp")
#: TinyLlama-1.1B's.
SHAPE = cpu.Shape(n_layer=22, n_embd=2048, n_head=32, n_head_kv=4, n_ff=5632, n_vocab=32000)
BATCH, ANSWER = 512, 16
#: Of answers with fewer threads, which take as many times as long. They are measured at the greatest depth alone.
FEWER_TURNS = 3
#: Stock reads a prompt over a quantized cache for minutes, and is spared it.
STOCK_CACHES = ("f16",)


@dataclass(frozen=True)
class Contender:
    program: str
    cache: str


class Runner:
    """A contender's process. It runs only between ``ask`` and the answer."""

    def __init__(self, program: Path, model: Path, cache: str, places: int):
        pair = CachePair.parse(cache)
        words = [str(program), str(model), pair.k.name, pair.v.name, str(places)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "active"}
        self.process = subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment)

    def ask(self, what: str, n: int) -> float:
        """Seconds. Raises SystemExit if the program ends."""
        assert self.process.stdin and self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{what} {n}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        if not line:
            raise SystemExit(f"{self.process.args} ended")
        return float(line)


@contextmanager
def running(program: Path, model: Path, cache: str, places: int) -> Iterator[Runner]:
    runner = Runner(program, model, cache, places)
    try:
        yield runner
    finally:
        runner.process.kill()
        runner.process.wait()


def contenders(programs: Sequence[str], caches: Sequence[str]) -> list[Contender]:
    return [Contender(p, cache) for cache in caches for p in programs if p != STOCK or cache in STOCK_CACHES]


def measure(
    programs: dict[str, Path],
    model: Path,
    caches: Sequence[str],
    depths: Sequence[int],
    threads: Sequence[int],
    turns: int,
) -> Iterator[dict[str, Any]]:
    """Rows with the seconds of each prompt from nothing, one sample, and of each answer, ``turns`` of them."""
    order = random.Random(0)
    with ExitStack() as stack:
        runners = {
            each: stack.enter_context(running(programs[each.program], model, each.cache, max(depths) + 64))
            for each in contenders(list(programs), caches)
        }
        for runner in runners.values():
            runner.ask("threads", max(threads))
            runner.ask("answer", 4)  # reads the weights, and wakes the threads
        read = dict.fromkeys(runners, 0.0)
        held = 0
        for depth in sorted(depths):
            for _ in range(held, depth, BATCH):
                for each, runner in _shuffled(runners, order):
                    read[each] += runner.ask("read", BATCH)
            held = depth
            if depth:
                yield from (_row(each, "prompt", depth, max(threads), [seconds]) for each, seconds in read.items())
            fewer = sorted(threads)[:-1] if depth == max(depths) else []
            for n in (max(threads), *fewer):
                at_work = {
                    each: runner for each, runner in runners.items() if n == max(threads) or each.program != STOCK
                }
                for runner in at_work.values():
                    runner.ask("threads", n)
                    runner.ask("answer", 1)
                samples: dict[Contender, list[float]] = {each: [] for each in at_work}
                for _ in range(turns if n == max(threads) else FEWER_TURNS):
                    for each, runner in _shuffled(at_work, order):
                        samples[each].append(runner.ask("answer", ANSWER))
                for each, seconds in samples.items():
                    yield _row(each, "answer", depth, n, seconds)
                    speed = ANSWER / statistics.median(seconds)
                    print(
                        f"{each.program} {each.cache} behind {depth}, {n} threads: {speed:.1f} tokens/s",
                        file=sys.stderr,
                    )


def _shuffled(runners: dict[Contender, Runner], order: random.Random) -> list[tuple[Contender, Runner]]:
    items = list(runners.items())
    order.shuffle(items)
    return items


def _row(each: Contender, what: str, depth: int, threads: int, seconds: list[float]) -> dict[str, Any]:
    seconds = [round(value, 6) for value in seconds]
    return dict(vars(each), what=what, depth=depth, threads=threads, seconds=seconds)


def markdown(data: dict[str, Any]) -> str:
    lines = [
        "# Whole models on a CPU, at depth",
        "",
        "Runs take turns of about a second, each with its cache in memory, and whoever is not at work is stopped. Medians in "
        f"tokens/s, of answers of {ANSWER} tokens; ratios are medians of each turn's. Threads wait awake. Made by "
        "`tools/benchmarks/depths.py`.",
    ]
    for run in data["runs"]:
        lines += ["", f"## {run['title']}", ""]
        lines += [f"{evidence.machine(run['machine'], max(run['threads']))}, {run['date']}. {run['about']}"]
        lines += _speeds(run["rows"], "prompt", "tokens", max(run["threads"]))
        lines += _speeds(run["rows"], "answer", "behind", max(run["threads"]))
        if len(run["threads"]) > 1:
            lines += _threads(run)
    return "\n".join(lines) + "\n"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(map(str, head))} |", "|---:|---|" + "---:|" * (len(head) - 2)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _seconds(rows: list[dict[str, Any]], **key: object) -> list[float]:
    return next((row["seconds"] for row in rows if key.items() <= row.items()), [])


def _caches(rows: list[dict[str, Any]]) -> list[str]:
    return [str(pair) for pair in evidence.PAIRS if str(pair) in {row["cache"] for row in rows}]


def _speed(tokens: int, seconds: list[float]) -> str:
    return f"{tokens / statistics.median(seconds):.1f}" if seconds else "–"


def _speeds(rows: list[dict[str, Any]], what: str, first: str, threads: int) -> list[str]:
    """The table of prompts, or of answers, if there are any; its first column is headed ``first``."""
    table = []
    for depth in sorted({row["depth"] for row in rows if row["what"] == what}):
        key = dict(what=what, depth=depth, threads=threads)
        f16 = _seconds(rows, **key, cache="f16", program=OURS)
        for cache in _caches(rows):
            of = {name: _seconds(rows, **key, cache=cache, program=name) for name in (OURS, IK, STOCK)}
            cells = [_speed(depth if what == "prompt" else ANSWER, seconds) for seconds in of.values()]
            cells += [evidence.ratio(other, of[OURS]) for other in (of[IK], of[STOCK], f16)]
            table.append([depth, cache, *cells])
    head = [first, "cache", OURS, IK, STOCK, "ours to ik", "to stock", "to our f16"]
    title = {"prompt": "A prompt", "answer": "An answer"}[what]
    return ["", f"### {title}", "", *_table(head, table)] if table else []


def _threads(run: dict[str, Any]) -> list[str]:
    """Speeds, and which part of what so many threads read alone a step's weights and cache come to."""
    rows, depth = run["rows"], max(row["depth"] for row in run["rows"])
    lines = ["", f"### Threads, an answer behind {depth}", ""]
    lines += [
        "Of memory: the bytes of weights and cache that a step reads, in its time, over what so many threads read alone."
    ]
    threads = sorted(run["threads"])
    table = []
    for cache in _caches(rows):
        for name in (OURS, IK):
            cells = []
            for n in threads:
                seconds = _seconds(rows, what="answer", depth=depth, threads=n, cache=cache, program=name)
                if not seconds:
                    cells.append("–")
                    continue
                step = statistics.median(seconds) / ANSWER
                size = run["weight_bytes"] + evidence.cache_bytes(
                    CachePair.parse(cache), depth + ANSWER // 2, **run["shape"]
                )
                cells.append(f"{1 / step:.1f} ({size / step / 1e9 / run['read_gb_s'][str(n)]:.0%})")
            table.append([cache, name, *cells])
    memory = [f"{run['read_gb_s'][str(n)]:.0f} GB/s" for n in threads]
    head = ["cache", "", *(f"{n} thread{'s' * (n > 1)}" for n in threads)]
    return [*lines, "", *_table(head, [["", "memory alone", *memory], *table])]


def compiled(folder: Path, ik_sources: Path, ik_build: Path, tools: Sequence[Path] | None) -> dict[str, Path]:
    """A program of each, in ``folder``."""
    from kvsplit_patch.series import trees

    folder.mkdir(parents=True, exist_ok=True)
    builds = rivals.builds(ik_sources, ik_build, tools)
    sources = {OURS: trees.patched().folder, STOCK: trees.unpatched().folder, IK: ik_sources}
    made = {}
    for name, of in sources.items():
        compiler = ["c++", "-fopenmp", "-I", str(of / "include")]
        build = rivals.libraries(name, builds)
        made[name] = attention_op.linked(of / "ggml", build, folder / name, compiler, PROGRAM, ("llama", "ggml*"))
    return made


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file  [default: TinyLlama's shape with random f16 weights]")
    parser.add_argument("--ik", type=Path, metavar="FOLDER", help="ik_llama.cpp's sources")
    parser.add_argument("--ik-build", type=Path, metavar="FOLDER", help="where they are compiled")
    parser.add_argument("--tools", type=Path, nargs=2, metavar=("STOCK", "PATCHED"), help="builds made before")
    parser.add_argument(
        "--programs", type=Path, help="where the programs are compiled; those there are used as they are"
    )
    parser.add_argument("--caches", nargs="+", default=["f16", "K8V4"])
    parser.add_argument("--layers", type=int, default=SHAPE.n_layer, help="of random weights  [default: %(default)s]")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 4096, 8192])
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count()])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--title", help="of the run on the page  [default: the model's name]")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"), help="folder for depths.json and depths.md")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args()
    data = evidence.read(given.out, "depths") or {"runs": []}
    before = data["runs"]
    with tempfile.TemporaryDirectory() as scratch:
        for run in _runs(given, Path(scratch), parser.error) if not given.page else ():
            data = {"runs": [*before, run]}
            evidence.write(given.out, "depths", data, markdown(data))
    if given.page:
        evidence.write(given.out, "depths", data, markdown(data))


def _runs(given: Any, scratch: Path, error: Any) -> Iterator[dict[str, Any]]:
    """What this run has measured so far, after each row: one dictionary that grows."""
    programs = {name: given.programs / name for name in (OURS, IK, STOCK)} if given.programs else {}
    programs = {name: file.resolve() for name, file in programs.items() if file.is_file()}
    if not programs:
        if not given.ik:
            error("name ik_llama.cpp's sources with --ik, or a folder with compiled --programs")
        folder = given.programs or scratch / "programs"
        programs = compiled(folder, given.ik.resolve(), given.ik_build or scratch / "ik", given.tools)
    model = given.model or scratch / "model.gguf"
    if given.model:
        weights, shape, about = rivals.weight_bytes(model), rivals.shape(model), model.name
    else:
        of = replace(SHAPE, n_layer=given.layers)
        weights = cpu.write_model(model, of)
        shape = dict(n_layer=of.n_layer, n_head_kv=of.n_head_kv, head_dim=of.head_dim)
        about = f"TinyLlama-1.1B's shape, {of.n_layer} layers, random f16 weights"
    run = dict(
        title=given.title or about,
        about=f"{about}.",
        machine=cpu.this_machine(),
        date=str(date.today()),
        threads=given.threads,
        read_gb_s={str(n): cpu.read_bandwidth(n, 2) for n in given.threads},
        weight_bytes=weights,
        shape=shape,
        rows=[],
    )
    for row in measure(programs, model, given.caches, given.depths, given.threads, given.turns):
        run["rows"].append(row)
        yield run


if __name__ == "__main__":
    main()
