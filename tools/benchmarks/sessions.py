#!/usr/bin/env python
"""Time to the first token of `llm -c`, with the stored KV state and without it, and against llm-gguf.

Every run is a new process, as a person's question is, timed from its start to the first byte of its answer; runs
with and without the state take turns. The models have random weights: time does not depend on what they are.

    python tools/benchmarks/sessions.py --out docs/evidence                            # 20 minutes on 2 quiet cores
    python tools/benchmarks/sessions.py --out docs/evidence --lengths 16384 --runs 1   # one more row beside those there
    python tools/benchmarks/sessions.py --llm-gguf PYTHON                             # a Python with llm and llm-gguf, for that column
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import evidence  # beside this file: a program has no package

from llm_kvsplit import demo
from llm_kvsplit.paths import backends_dir

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.ggufs import write_llama

#: Layers, width and heads of SmolLM-135M, the smallest model that people chat with, and of its bigger sister; 32768
#: tokens of context, and a byte vocabulary, so that tokens are bytes of text.
SHAPES = {
    "135M": dict(n_layer=30, n_embd=576, n_head=9, n_head_kv=3, n_ctx=32768),
    "360M": dict(n_layer=32, n_embd=960, n_head=15, n_head_kv=5, n_ctx=32768),
}
#: Seconds that llm-gguf may take to its first byte.
PATIENCE = 300
K8V4 = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "temperature", "0", "-o", "max_tokens", "4")


def ask(python: str, user: Path, *arguments: str, stdin: str = "") -> tuple[float, float]:
    """Seconds from the start of the process to the first byte of the answer, and to its end."""
    started = time.perf_counter()
    process = _start(python, user, *arguments, stdin=stdin)
    process.stdout.read(1)
    first = time.perf_counter() - started
    process.stdout.read()
    if process.wait() != 0:
        raise SystemExit(f"llm {' '.join(arguments)} failed")
    return first, time.perf_counter() - started


def ask_llm_gguf(python: str, user: Path, text: str) -> float | None:
    """Seconds to the first byte, where the process is ended: llm-gguf has no limit on tokens.

    None when none comes: random weights may say bytes that are no text, and llm-gguf prints nothing for those.
    """
    started = time.perf_counter()
    process = _start(python, user, "-m", "gguf/bench", stdin=text)
    too_late = threading.Timer(PATIENCE, process.kill)
    too_late.start()
    came = process.stdout.read(1)
    first = time.perf_counter() - started
    too_late.cancel()
    process.kill()
    process.wait()
    return first if came else None


def _start(python: str, user: Path, *arguments: str, stdin: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [python, "-m", "llm", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=as_user(user),
    )
    process.stdin.write(stdin.encode())
    process.stdin.close()
    return process


def output(python: str, user: Path, *arguments: str) -> bytes:
    """What ``llm …`` prints. Raises CalledProcessError when it fails."""
    command = [python, "-m", "llm", *arguments]
    return subprocess.run(command, env=as_user(user), capture_output=True, check=True).stdout


def as_user(user: Path) -> dict[str, str]:
    return {**os.environ, "LLM_USER_PATH": str(user)}


def logged(user: Path) -> dict:
    return json.loads(output(sys.executable, user, "logs", "--json", "-n", "1"))[0]["response_json"]


def drop_from_page_cache(folder: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*.kv"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_length(work: Path, start: Path, n_tokens: int, runs: int, llm_gguf: str | None) -> dict:
    """All figures for a conversation of ``n_tokens``; medians of ``runs``. ``start``: a user directory to begin from."""
    text = demo.SMOKE_TEXT.read_text(encoding="ascii", errors="ignore")
    text = (text * (1 + n_tokens // len(text)))[:n_tokens]
    asked, now = work / f"asked-{n_tokens}", work / "now"
    seconds: dict[str, list[float]] = {}

    def run(name: str, user: Path, *arguments: str, stdin: str = "", to_the_end: bool = False) -> None:
        first, end = ask(sys.executable, user, *arguments, *K8V4, stdin=stdin)
        seconds.setdefault(name, []).append(end if to_the_end else first)

    for i in range(runs):
        for name, extra in (("first, storing", ()), ("first, not storing", ("-o", "kv_sessions", "false"))):
            shutil.copytree(start, now, symlinks=True)
            run(name, now, "-m", "bench", *extra, stdin=text, to_the_end=True)
            now.rename(asked) if not extra and i == 0 else shutil.rmtree(now)
    stored = logged(asked)
    disk, restoring = [], []
    for _ in range(runs):
        for name in ("stored, warm", "nothing stored", "stored, dropped"):
            shutil.copytree(asked, now, symlinks=True)
            if name == "stored, dropped":
                disk.append(read_from_disk(now))
                drop_from_page_cache(now)
            extra = ("-o", "kv_sessions", "false") if name == "nothing stored" else ()
            run(name, now, "-c", *extra, "And then?")
            answer = logged(now)
            if (answer["reused_tokens"] > 0) != (name != "nothing stored"):
                raise SystemExit(f"{name}: {answer['reused_tokens']} tokens were reused")
            if name == "stored, dropped":
                restoring.append(answer["session"]["restored_seconds"])
            shutil.rmtree(now)
        if llm_gguf and (first := ask_llm_gguf(llm_gguf, work / "llm-gguf", text)) is not None:
            seconds.setdefault("llm-gguf", []).append(first)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "tokens": stored["prompt_tokens"],
        "runs": runs,
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "median": {name: round(value, 3) for name, value in median.items()},
        "ratio": round(median["nothing stored"] / median["stored, warm"], 1),
        "ratio_dropped": round(median["nothing stored"] / median["stored, dropped"], 1),
        "ratio_llm_gguf": round(median["llm-gguf"] / median["stored, warm"], 1) if "llm-gguf" in median else None,
        "overhead": round(median["first, storing"] / median["first, not storing"] - 1, 4),
        "saved_bytes": stored["session"]["saved_bytes"],
        "saved_seconds": stored["session"]["saved_seconds"],
        "read_seconds": round(statistics.median(disk), 4),
        "restored_seconds": round(statistics.median(restoring), 4),
    }


def read_from_disk(user: Path) -> float:
    """Seconds that reading the one stored state takes, in large blocks, with nothing of it in the page cache."""
    drop_from_page_cache(user)
    (path,) = user.rglob("*.kv")
    block = bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        started = time.perf_counter()
        while file.readinto(block):
            pass
        return time.perf_counter() - started


def register(user: Path, model: Path) -> Path:
    """A user directory with the model, and with the builds of the person who runs this."""
    (user / "kvsplit").mkdir(parents=True)
    (user / "kvsplit" / "backends").symlink_to(backends_dir())
    output(sys.executable, user, "kvsplit", "add", str(model), "--name", "bench")
    return user


def with_a_first_question(user: Path) -> Path:
    """The model's SHA-256 is computed once in a model's life: before what is timed, and without leaving a state."""
    ask(sys.executable, user, "-m", "bench", *K8V4, "This question is here so that the model's checksum is known.")
    for path in user.rglob("*.kv"):
        path.unlink()
    return user


def state_sizes(work: Path, model: Path, shape: dict, n_tokens: int) -> list[dict]:
    """Bytes of a stored state for each pair beside the arithmetic, for a conversation of ``n_tokens``."""
    rows = []
    text = demo.SMOKE_TEXT.read_text(encoding="ascii", errors="ignore")[:n_tokens]
    for pair in evidence.PAIRS:
        user = register(work / f"size-{pair}", model)
        bits = ("-o", "kv_key_bits", str(pair.k.bits), "-o", "kv_value_bits", str(pair.v.bits))
        ask(sys.executable, user, "-m", "bench", *bits, "-o", "max_tokens", "1", "-o", "temperature", "0", stdin=text)
        response = logged(user)
        tokens = response["prompt_tokens"]
        head_dim = shape["n_embd"] // shape["n_head"]
        arithmetic = evidence.cache_bytes(
            pair, tokens, n_layer=shape["n_layer"], n_head_kv=shape["n_head_kv"], head_dim=head_dim
        )
        saved = response["session"]["saved_bytes"]
        rows.append({"pair": str(pair), "tokens": tokens, "file": saved, "arithmetic": int(arithmetic)})
    return rows


def markdown(results: dict) -> str:
    lines = [
        "# `llm -c` from a stored KV state",
        "",
        "Seconds from the start of the process to the first byte of the answer, medians; q8_0 keys and q4_0 values, but",
        "f16 for llm-gguf, which has nothing else; random weights in the shapes of SmolLM-135M and SmolLM-360M;",
        f"{results['machine']}; llama-cpp-python {results['bindings']}, {results['backend']}.",
        "Made by `python tools/benchmarks/sessions.py`; single runs differ by up to 10 %, and 16384 tokens are one run.",
        "",
        "| model | tokens | nothing stored | stored | ratio | stored, page cache dropped | ratio | llm-gguf | ratio "
        "| storing costs the first answer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["lengths"]:
        m = row["median"]
        gguf = (f"{m['llm-gguf']:.2f}", f"{row['ratio_llm_gguf']:.1f}x") if row["ratio_llm_gguf"] else ("-", "-")
        lines.append(
            f"| {row['model']} | {row['tokens']} | {m['nothing stored']:.2f} | {m['stored, warm']:.2f} | **{row['ratio']:.1f}x** "
            f"| {m['stored, dropped']:.2f} | {row['ratio_dropped']:.1f}x | {gguf[0]} | {gguf[1]} "
            f"| {100 * row['overhead']:+.1f} % |"
        )
    lines += [
        "",
        "The file: written after the answer is out, read with nothing of it in the page cache, by the plugin (checked and",
    ]
    lines += ["put into llama.cpp's cache) and by a loop that only reads:", ""]
    lines += ["| model | tokens | MiB | written, s | restored, s | only read, s | share of the disk's speed |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for row in results["lengths"]:
        lines.append(
            f"| {row['model']} | {row['tokens']} | {row['saved_bytes'] / 2**20:.2f} | {row['saved_seconds']:.3f} "
            f"| {row['restored_seconds']:.3f} | {row['read_seconds']:.3f} "
            f"| {100 * row['read_seconds'] / row['restored_seconds']:.0f} % |"
        )
    lines += ["", "Bytes of a stored state, file and arithmetic (tokens and checksums are in the file as well):", ""]
    lines += ["| cache | tokens | file | arithmetic |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['pair']} | {r['tokens']} | {r['file']:,} | {r['arithmetic']:,} |" for r in results["sizes"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--model", choices=SHAPES, default="135M")
    parser.add_argument("--lengths", default="1024,4096,8192,16384")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each kind, which take turns; one beyond 8192 tokens"
    )
    parser.add_argument("--llm-gguf", metavar="PYTHON")
    parser.add_argument("--out", type=Path, help="folder for sessions.json and sessions.md, written after every length")
    options = parser.parse_args()
    from llm_kvsplit.builds import choice

    where = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "bindings": version("llama-cpp-python"),
        "backend": f"library: {choice.choose().id}",
    }
    shape = SHAPES[options.model]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = write_llama(work / "bench.gguf", **shape)
        start = with_a_first_question(register(work / "start", model))
        if options.llm_gguf:
            register_llm_gguf(options.llm_gguf, work / "llm-gguf", model)
        results = measured_before(options.out, where) or where | {
            "lengths": [],
            "sizes": state_sizes(work, model, shape, 1500),
        }
        for n in map(int, options.lengths.split(",")):
            runs = options.runs if n <= 8192 else 1
            row = {"model": options.model} | one_length(work, start, n, runs, options.llm_gguf)
            print(json.dumps(row), file=sys.stderr, flush=True)
            kept = [old for old in results["lengths"] if (old["model"], old["tokens"]) != (row["model"], row["tokens"])]
            results["lengths"] = sorted([*kept, row], key=lambda row: (row["model"], row["tokens"]))
            if options.out:
                evidence.write(options.out, "sessions", results, markdown(results))
    print(markdown(results))


def measured_before(out: Path | None, where: dict) -> dict | None:
    """The results in ``out``, to add rows to; None when there are none, or they are of another machine or library."""
    results = evidence.read(out, "sessions") if out else {}
    return results if where.items() <= results.items() else None


def register_llm_gguf(python: str, user: Path, model: Path) -> None:
    user.mkdir()
    output(python, user, "gguf", "register-model", "bench", str(model))


if __name__ == "__main__":
    main()
