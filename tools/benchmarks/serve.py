#!/usr/bin/env python
"""Many clients of one llama-server: f16 against K8V4 in the same memory, the series against the same commit without it.

The memory is what an f16 cache takes for 8 conversations of 1024 tokens. Each cache gets as many conversations as fit into
that, which llama.cpp is asked for, and 1, 8 and 32 clients ask at once: each once, with 256 tokens of prompt and 32 of
answer. Clients wait where there are more of them than conversations. "shared" prompts have their first 224 tokens in common.

How many fit depends on no machine. The speeds do, and on a quiet one only: about 6 minutes on 2 cores, after both servers
were compiled.

    uv run python tools/benchmarks/serve.py --out docs/evidence
    uv run python tools/benchmarks/serve.py --out docs/evidence --only fit     # seconds: how many fit
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import evidence  # beside this file: a program has no package
import requests

from kvsplit_patch.building import artifacts, cmake, programs
from kvsplit_patch.proof import subjects
from kvsplit_patch.series import trees
from kvsplit_patch.series.trees import SourceTree
from llm_kvsplit import demo, fit, machine
from llm_kvsplit.builds import shelf
from llm_kvsplit.kvtypes import CachePair
from llm_kvsplit.paths import cache_dir
from llm_kvsplit.units import size

PAIRS = tuple(CachePair.parse(text) for text in ("f16", "K8V8", "K8V4", "K4V4"))
LOADED = tuple(CachePair.parse(text) for text in ("f16", "K8V4"))
F16_USERS, EACH = 8, 1024
CLIENTS = (1, 8, 32)
PROMPT, SHARED, ANSWER = 256, 224, 32


def fitting(model: Path) -> list[dict[str, Any]]:
    """How many conversations of EACH tokens each cache has room for in the memory of F16_USERS in f16."""
    from llm_kvsplit.engine.weights import LoadOptions

    with fit.simulation(LoadOptions(model)) as weights:
        memory = fit.footprint(weights, PAIRS[0], F16_USERS * EACH, F16_USERS).kv
        rows = []
        for pair in PAIRS:
            users = F16_USERS
            while fit.footprint(weights, pair, (users + 1) * EACH, users + 1).kv <= memory:
                users += 1
            taken = fit.footprint(weights, pair, users * EACH, users).kv
            rows.append({"cache": str(pair), "users": users, "bytes": taken, "memory": memory})
    return rows


def compiled(source: SourceTree) -> Path:
    """llama-server of a tree, on the libraries of that tree."""

    def echo(line: str) -> None:
        print(line, file=sys.stderr)

    folder = artifacts.build(source, cmake.flags(), echo)
    build = next(build for build in shelf.builds() if build.folder == folder)
    program = folder / "programs" / "llama-server" / "llama-server"
    return program if program.is_file() else programs.for_build(build, program, echo)


@contextmanager
def running(program: Path, model: Path, pair: CachePair, users: int) -> Iterator[str]:
    """The address of a server with so many conversations, which keeps no prompt beside its cache."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threads = machine.physical_cores()
    command = [
        program, "--port", port, "--model", model, "--cache-type-k", pair.k.name, "--cache-type-v", pair.v.name,
        "--ctx-size", users * EACH, "--parallel", users, "--kv-unified", "--cache-ram", 0, "--threads", threads,
        "--threads-http", max(CLIENTS) + 4, "--offline",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(f"{url}/health"):
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"llama-server ended before it was ready:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def prompts(url: str, clients: int, shared: bool, turn: int) -> list[list[int]]:
    """A prompt for each client, of tokens that no other turn has in this order."""
    text = demo.SMOKE_TEXT.read_text(encoding="utf-8")
    tokens = requests.post(f"{url}/tokenize", json={"content": text}, timeout=60).json()["tokens"]
    at = turn * 977
    tokens = tokens[at:] + tokens[:at]
    head = SHARED if shared else 0
    rest = PROMPT - head
    return [tokens[:head] + tokens[head + rest * n : head + rest * (n + 1)] for n in range(clients)]


def ask(url: str, prompt: list[int]) -> tuple[float, int]:
    """Seconds until the first token came, and how many came."""
    body = {"prompt": prompt, "n_predict": ANSWER, "temperature": 0, "ignore_eos": True, "stream": True}
    began, first, count = time.monotonic(), 0.0, 0
    with requests.post(f"{url}/completion", json=body, stream=True, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event.get("stop"):
                    count = event["tokens_predicted"]
                elif not first:
                    first = time.monotonic() - began
    return first, count


def wave(url: str, clients: int, shared: bool, turn: int) -> dict[str, Any]:
    """All clients ask at once."""
    asked = prompts(url, clients, shared, turn)
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda prompt: ask(url, prompt), asked))
    seconds = time.monotonic() - began
    if any(count != ANSWER for _, count in answers):
        sys.exit(f"An answer has {min(count for _, count in answers)} tokens instead of {ANSWER}.")
    firsts = [first for first, _ in answers]
    return {
        "clients": clients,
        "prompts": "shared" if shared else "different",
        "tokens_per_second": clients * ANSWER / seconds,
        "first_token_median": statistics.median(firsts),
        "first_token_last": max(firsts),
    }


def load(model: Path, users: dict[str, int]) -> list[dict[str, Any]]:
    """Every server under every load."""
    os.environ["KVSPLIT_BUILDS"] = str(cache_dir() / "benchmark-builds")
    servers = {"series": compiled(trees.patched()), "stock": compiled(trees.unpatched())}
    rows = []
    for name, program in servers.items():
        for pair in LOADED:
            with running(program, model, pair, users[str(pair)]) as url:
                wave(url, 1, False, 0)  # the first request warms up
                turns = [(clients, shared) for clients in CLIENTS for shared in (False, True)]
                for turn, (clients, shared) in enumerate(turns, 1):
                    row = {"server": name, "cache": str(pair), **wave(url, clients, shared, turn)}
                    print(row, file=sys.stderr)
                    rows.append(row)
    return rows


def markdown(results: dict[str, Any]) -> str:
    about = results["about"]
    lines = [
        "# Many users of one server",
        "",
        f"Made by `tools/benchmarks/serve.py` with {about['model']}. An f16 cache of {F16_USERS} conversations of {EACH} "
        f"tokens takes {size(results['fit'][0]['memory'])}. Each cache gets as many conversations as fit into that:",
        "",
        "| cache | conversations | memory of the cache |",
        "| --- | --- | --- |",
        *(f"| {row['cache']} | {row['users']} | {size(row['bytes'])} |" for row in results["fit"]),
        "",
    ]
    if not results.get("load"):
        return "\n".join(lines)
    users = {row["cache"]: row["users"] for row in results["fit"]}
    lines += [
        f"With so many conversations each, clients ask at once, each once: {PROMPT} tokens of prompt, {ANSWER} of answer. "
        f"Shared prompts have {SHARED} tokens in common. Stock is the same commit without the series. "
        f"{about['date']}, {about['cpu']}, {about['cores']} cores{about['note']}.",
        "",
        "| server | cache | conversations | clients | prompts | answers, tokens/s | first token, median | last client's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['server']} | {row['cache']} | {users[row['cache']]} | {row['clients']} | {row['prompts']} "
        f"| {row['tokens_per_second']:.1f} | {row['first_token_median']:.2f} s | {row['first_token_last']:.2f} s |"
        for row in results["load"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for serve.json and serve.md")
    parser.add_argument("--only", choices=["fit"], help="how many fit, and no load")
    parser.add_argument("--busy", action="store_true", help="say on the page that other programs ran at the same time")
    options = parser.parse_args()
    model = subjects.smollm2()
    results = evidence.read(options.out, "serve")
    results["fit"] = fitting(model)
    results["about"] = {
        "model": "SmolLM2-135M-Instruct Q4_1",
        "date": str(date.today()),
        "cpu": machine.cpu_name(),
        "cores": machine.physical_cores(),
        "note": ", while other programs ran: not to be relied on" if options.busy else "",
    }
    if options.only is None:
        results["load"] = load(model, {row["cache"]: row["users"] for row in results["fit"]})
    evidence.write(options.out, "serve", results, markdown(results))


if __name__ == "__main__":
    main()
