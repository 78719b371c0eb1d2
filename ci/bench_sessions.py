#!/usr/bin/env python
"""Time to the first token of `llm -c`, with the stored KV state and without it, and against llm-gguf.

Every run is a new process, as a person's question is, timed from its start to the first byte of its answer; runs
with and without the state take turns. The model has random weights: time does not depend on what they are.

    python ci/bench_sessions.py --out docs/results
    python ci/bench_sessions.py --llm-gguf PYTHON   # a Python with llm and llm-gguf, for that column
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from llm_kvsplit import demo  # noqa: E402
from llm_kvsplit.kvtypes import CachePair, bytes_per_token  # noqa: E402
from tests.llm_kvsplit.ggufs import write_llama  # noqa: E402

#: The demo model's shape with a long context and a byte vocabulary, so that tokens are bytes of text.
SHAPE = dict(n_layer=6, n_embd=256, n_head=4, n_head_kv=2, n_ctx=32768)
PAIRS = [(16, 16), (8, 8), (8, 4), (4, 4)]


def ask(python: str, user: Path, *arguments: str, stdin: str = "") -> tuple[float, float]:
    """Seconds from the start of the process to the first byte of the answer, and to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [python, "-m", "llm", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LLM_USER_PATH": str(user)},
    )
    process.stdin.write(stdin.encode())
    process.stdin.close()
    process.stdout.read(1)
    first = time.perf_counter() - started
    process.stdout.read()
    if process.wait() != 0:
        raise SystemExit(f"llm {' '.join(arguments)} failed")
    return first, time.perf_counter() - started


def logged(user: Path) -> dict:
    out = subprocess.run(
        [sys.executable, "-m", "llm", "logs", "--json", "-n", "1"],
        env={**os.environ, "LLM_USER_PATH": str(user)},
        capture_output=True,
        check=True,
    ).stdout
    return json.loads(out)[0]["response_json"]


def drop_from_page_cache(folder: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*.kv"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_length(work: Path, model: Path, n_tokens: int, runs: int, llm_gguf: str | None) -> dict:
    """All figures for a conversation of ``n_tokens``; medians of ``runs``."""
    text = demo.SMOKE_TEXT.read_text(encoding="ascii", errors="ignore")
    text = (text * (1 + n_tokens // len(text)))[:n_tokens]
    pair = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "temperature", "0", "-o", "max_tokens", "4")
    times: dict[str, list[float]] = {name: [] for name in ("first, storing", "first, not storing")}
    before = work / f"asked-{n_tokens}"
    for i in range(2 if n_tokens > 4096 else runs):
        for name, extra in (("first, storing", ()), ("first, not storing", ("-o", "kv_sessions", "false"))):
            user = work / f"{name[7:]}-{n_tokens}-{i}"
            register(user, model)
            times[name].append(ask(sys.executable, user, "-m", "bench", *pair, *extra, stdin=text)[1])
            if not extra and not before.exists():
                shutil.copytree(user, before)
    first = logged(before)
    for name in ("stored, warm", "stored, dropped", "nothing stored"):
        times[name] = []
    for i in range(runs):
        for name in ("stored, warm", "nothing stored", "stored, dropped"):
            if name == "nothing stored" and i >= 2 and n_tokens > 4096:
                continue
            user = work / "now"
            shutil.copytree(before, user)
            if name == "stored, dropped":
                drop_from_page_cache(user)
            extra = ("-o", "kv_sessions", "false") if name == "nothing stored" else ()
            times[name].append(ask(sys.executable, user, "-c", *pair, *extra, "And then?")[0])
            reused = logged(user)["reused_tokens"]
            if (reused > 0) != (name != "nothing stored"):
                raise SystemExit(f"{name}: {reused} tokens were reused")
            shutil.rmtree(user)
    if llm_gguf:
        times["llm-gguf"] = [
            ask(llm_gguf, work / "llm-gguf", "-m", "gguf/bench", stdin=text)[0] for _ in range(2 if n_tokens > 4096 else runs)
        ]
    median = {name: statistics.median(values) for name, values in times.items() if values}
    return {
        "tokens": first["prompt_tokens"],
        "seconds": {name: [round(value, 3) for value in values] for name, values in times.items()},
        "median": {name: round(value, 3) for name, value in median.items()},
        "ratio": round(median["nothing stored"] / median["stored, warm"], 1),
        "ratio_dropped": round(median["nothing stored"] / median["stored, dropped"], 1),
        "ratio_llm_gguf": round(median["llm-gguf"] / median["stored, warm"], 1) if llm_gguf else None,
        "overhead": round(median["first, storing"] / median["first, not storing"] - 1, 4),
        "saved_bytes": first["session"]["saved_bytes"],
        "saved_seconds": first["session"]["saved_seconds"],
    }


def register(user: Path, model: Path) -> None:
    user.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "llm", "kvsplit", "add", str(model), "--name", "bench"],
        env={**os.environ, "LLM_USER_PATH": str(user)},
        check=True,
        capture_output=True,
    )


def state_sizes(work: Path, model: Path, n_tokens: int) -> list[dict]:
    """Bytes of a stored state for each pair beside the arithmetic, for a conversation of ``n_tokens``."""
    rows = []
    text = demo.SMOKE_TEXT.read_text(encoding="ascii", errors="ignore")[:n_tokens]
    for k, v in PAIRS:
        user = work / f"size-{k}-{v}"
        register(user, model)
        bits = ("-o", "kv_key_bits", str(k), "-o", "kv_value_bits", str(v))
        ask(sys.executable, user, "-m", "bench", *bits, "-o", "max_tokens", "1", "-o", "temperature", "0", stdin=text)
        response = logged(user)
        tokens = response["prompt_tokens"]
        pair = CachePair.from_bits(k, v)
        per_token = bytes_per_token(pair.k, pair.v, [SHAPE["n_head_kv"]] * SHAPE["n_layer"], 64, 64)
        rows.append(
            {"pair": str(pair), "tokens": tokens, "file": response["session"]["saved_bytes"], "arithmetic": int(per_token * tokens)}
        )
    return rows


def markdown(results: dict) -> str:
    lines = [
        "# `llm -c` from a stored KV state",
        "",
        "Seconds from the start of the process to the first byte of the answer, medians; q8_0 keys and q4_0 values;",
        f"a random-weight model of the demo model's shape; {results['machine']};",
        f"llama-cpp-python {results['bindings']}, {results['backend']}. Made by `python ci/bench_sessions.py`.",
        "",
        "| tokens | nothing stored | stored | ratio | stored, page cache dropped | ratio | llm-gguf | ratio "
        "| storing costs the first answer | file, MiB | written in, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["lengths"]:
        m = row["median"]
        gguf = (f"{m['llm-gguf']:.2f}", f"{row['ratio_llm_gguf']:.1f}x") if row["ratio_llm_gguf"] else ("-", "-")
        lines.append(
            f"| {row['tokens']} | {m['nothing stored']:.2f} | {m['stored, warm']:.2f} | **{row['ratio']:.1f}x** "
            f"| {m['stored, dropped']:.2f} | {row['ratio_dropped']:.1f}x | {gguf[0]} | {gguf[1]} "
            f"| {100 * row['overhead']:+.1f} % | {row['saved_bytes'] / 2**20:.2f} | {row['saved_seconds']:.3f} |"
        )
    lines += ["", "Bytes of a stored state, file and arithmetic (tokens and checksums are in the file as well):", ""]
    lines += ["| cache | tokens | file | arithmetic |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['pair']} | {r['tokens']} | {r['file']:,} | {r['arithmetic']:,} |" for r in results["sizes"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,4096,8192,16384")
    parser.add_argument("--runs", type=int, default=5, help="runs of each kind; two of the slow ones beyond 4096 tokens")
    parser.add_argument("--llm-gguf", metavar="PYTHON")
    parser.add_argument("--out", type=Path, help="folder for sessions.json and sessions.md")
    options = parser.parse_args()
    from llm_kvsplit import backend

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = write_llama(work / "bench.gguf", **SHAPE)
        if options.llm_gguf:
            register_llm_gguf(options.llm_gguf, work / "llm-gguf", model)
        results = {
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "bindings": version("llama-cpp-python"),
            "backend": f"library: {backend.choose().id}",
            "lengths": [],
        }
        for n in map(int, options.lengths.split(",")):
            results["lengths"].append(one_length(work, model, n, options.runs, options.llm_gguf))
            print(json.dumps(results["lengths"][-1]), file=sys.stderr, flush=True)
        results["sizes"] = state_sizes(work, model, 1500)
    print(markdown(results))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "sessions.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / "sessions.md").write_text(markdown(results))


def register_llm_gguf(python: str, user: Path, model: Path) -> None:
    user.mkdir()
    subprocess.run(
        [python, "-m", "llm", "gguf", "register-model", str(model), "-a", "bench"],
        env={**os.environ, "LLM_USER_PATH": str(user)},
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    main()
