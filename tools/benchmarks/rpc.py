#!/usr/bin/env python
"""What travels between machines that share a model (`-o rpc`), for each token and for a prompt.

Real servers on loopback, a counting proxy before each. Bytes and turns are counted and the same on any machine; seconds
for a network are computed of them, and compared with a proxy that delays, at one point. Results are rpc.json and rpc.md.

    uv run python tools/benchmarks/rpc.py --out docs/evidence       # two minutes on 2 cores
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests.support, for servers

import evidence
from counting_proxy import Proxy, Traffic, proxies

#: Tokens of the prompt, one batch, and of the answer; both within the first 1024 cells.
PROMPT, ANSWER = 512, 48
N_CTX = 1024
#: Networks by name: bits a second, and seconds of a round trip that are usual there. Both are assumptions.
NETWORKS = {
    "Wi-Fi, 300 Mbit/s, 4 ms": (0.3e9, 4e-3),
    "1 Gbit/s, 0.3 ms": (1e9, 0.3e-3),
    "10 Gbit/s, 0.1 ms": (10e9, 0.1e-3),
    "100 Gbit/s, 0.02 ms": (100e9, 0.02e-3),
}
#: Width, vocabulary and size of heads of models that people spread over machines, as their GGUF headers have them; bytes
#: of the weights in Q4_K_M, about.
LARGER = {
    "Llama 3.1 8B": (dict(n_embd=4096, n_vocab=128256, head_dim=128), 4.9e9),
    "Llama 3.3 70B": (dict(n_embd=8192, n_vocab=128256, head_dim=128), 42.5e9),
}
LONG = 32768
NOTHING = Traffic()
#: Seconds that each way takes longer, for the comparison.
DELAY = 0.01


def added(traffic: Traffic, bits_per_second: float, round_trip: float) -> float:
    """Seconds that a network costs: its turns one after another, and its bytes."""
    return traffic.turns * round_trip + 8 * (traffic.sent + traffic.received) / bits_per_second


def total(parts: Sequence[Traffic]) -> Traffic:
    return Traffic(*(sum(values) for values in zip(*(asdict(part).values() for part in parts))))


def computed(
    n_embd: int,
    n_vocab: int,
    head_dim: int,
    *,
    cells: int,
    servers: int,
    quantized: bool,
    overhead: Traffic = NOTHING,
) -> Traffic:
    """A token's vector goes to each server and back from all but the last, which sends the logits (4 bytes a value).

    Each server gets a mask of 2 bytes a cell, and for quantized keys and values the matrices that turn them (4 bytes a
    value, build_input_k_rot in llama-kv-cache.cpp). ``overhead``: what a server's messages take beside.
    """
    turned = 64
    while head_dim % (2 * turned) == 0:
        turned *= 2
    matrices = 4 * (turned**2 + 64**2) if quantized else 0
    return Traffic(
        servers * (4 * n_embd + 2 * cells + matrices + overhead.sent),
        4 * n_vocab + (servers - 1) * 4 * n_embd + servers * overhead.received,
        overhead.turns,
    )


def _of(model: Path, count: int, bits: tuple[int, int]) -> dict[str, Any]:
    """Traffic of loading, of a prompt and of each token, with layers on ``count`` servers."""
    from llm_kvsplit.engine.context import Context, ContextOptions
    from llm_kvsplit.engine.weights import LoadOptions, Weights
    from llm_kvsplit.kvtypes import CachePair
    from tests.support import rpc

    with ExitStack() as stack:
        servers = [stack.enter_context(rpc.rpc_server()) for _ in range(count)]
        between = stack.enter_context(proxies([server.endpoint for server in servers]))

        def counted() -> Traffic:
            return total([each.traffic for each in between])

        def settled() -> Traffic:
            """Once what needs no answer has arrived, too."""
            before = Traffic()
            while before != (before := counted()):
                time.sleep(0.2)
            return before

        weights = Weights(LoadOptions(model, servers=tuple(each.endpoint for each in between)))
        stack.callback(weights.close)
        loading = settled()
        context = Context(weights, ContextOptions(CachePair.from_bits(*bits), N_CTX, n_threads=1, flash_attn=True))
        stack.callback(context.close)
        before = settled()
        context.evaluate([1 + i % 100 for i in range(PROMPT)])
        prompt = settled() - before
        tokens = [_token(context, counted) for _ in range(ANSWER)]
        usual = [statistics.median(values) for values in zip(*(asdict(each).values() for each, _ in tokens))]
        seconds = statistics.median(each for _, each in tokens)
        slow = _slower(context, counted, between)
        return {
            "cache": str(CachePair.from_bits(*bits)),
            "servers": count,
            "shape": {
                "n_embd": weights.header.n_embd,
                "n_vocab": weights.n_vocab,
                "head_dim": weights.header.head_dim_k,
            },
            "loading": asdict(loading),
            "prompt": asdict(prompt),
            "token": asdict(Traffic(*map(int, usual))),
            "graph": max(each.sent for each, _ in tokens) - int(usual[0]),
            "delay": {"each way": DELAY, "without": seconds, "with": slow},
        }


def _token(context: Any, counted: Any) -> tuple[Traffic, float]:
    before, began = counted(), time.perf_counter()
    context.evaluate([7])
    return counted() - before, time.perf_counter() - began


def _slower(context: Any, counted: Any, between: list[Proxy]) -> float:
    for each in between:
        each.delay = DELAY
    return statistics.median(_token(context, counted)[1] for _ in range(ANSWER // 2))


def measure() -> dict[str, Any]:
    from kvsplit_patch.proof import subjects
    from llm_kvsplit import demo

    models = {"kvsplit-demo": demo.MODEL, "SmolLM2-135M-Instruct Q4_1": subjects.smollm2()}
    cases = [(1, (8, 4)), (2, (8, 4)), (3, (8, 4)), (2, (16, 16))]
    return {name: [_of(model, count, bits) for count, bits in cases] for name, model in models.items()}


def _overhead(row: dict[str, Any]) -> Traffic:
    """What the messages of a token take beside what is computed, for each server; and the turns of all."""
    servers, token = row["servers"], Traffic(**row["token"])
    cells = -(-(PROMPT + ANSWER) // 256) * 256  # as many as are in use, rounded up
    plain = computed(**row["shape"], cells=cells, servers=servers, quantized=row["cache"] != "f16")
    return Traffic((token.sent - plain.sent) // servers, (token.received - plain.received) // servers, token.turns)


def markdown(results: dict[str, Any]) -> str:
    lines = [
        "# What travels between machines",
        "",
        "Bytes and turns between this machine and `llm kvsplit rpc-server`, counted by a proxy before each server. A turn is",
        f"once that this machine waits for an answer. Figures are of all servers together; the prompt has {PROMPT} tokens, one",
        "batch. Every 256 tokens a new graph travels. Made by `python tools/benchmarks/rpc.py`. Nothing was timed on a network.",
        "",
        "| model | cache | servers | weights sent, MiB | prompt: sent, MiB | received, MiB | turns "
        "| token: sent, kB | received, kB | turns | graph, kB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in results.items():
        for row in rows:
            loading, prompt, token = (Traffic(**row[part]) for part in ("loading", "prompt", "token"))
            lines.append(
                f"| {name} | {row['cache']} | {row['servers']} | {loading.sent / 2**20:.1f} | {prompt.sent / 2**20:.2f} | "
                f"{prompt.received / 2**20:.2f} | {prompt.turns} | {token.sent / 1e3:.1f} | {token.received / 1e3:.1f} | "
                f"{token.turns} | {row['graph'] / 1e3:.0f} |"
            )
    lines += ["", *_networks(results), "", *_larger(results), "", *_check(results), ""]
    return "\n".join(lines)


def _networks(results: dict[str, Any]) -> list[str]:
    lines = [
        "Milliseconds that a network adds to each token, computed: turns times its round trip, and bytes at its speed.",
        "",
        f"| model | cache | servers | {' | '.join(NETWORKS)} |",
        f"| --- | --- | --- |{' --- |' * len(NETWORKS)}",
    ]
    for name, rows in results.items():
        for row in rows:
            each = [added(Traffic(**row["token"]), *network) for network in NETWORKS.values()]
            cells = " | ".join(f"{1e3 * value:.2f}" for value in each)
            lines.append(f"| {name} | {row['cache']} | {row['servers']} | {cells} |")
    return lines


def _larger(results: dict[str, Any]) -> list[str]:
    rows = results["SmolLM2-135M-Instruct Q4_1"]
    lines = [
        f"The same for larger models with {LONG} tokens in the cache, which were not run. A token's vector (4 bytes for each",
        "value of the width) goes to each server and comes back from all but the last. The last sends the logits (4 bytes for",
        "each token of the vocabulary). Each server gets a mask (2 bytes for a cell of the cache) and, for a quantized cache,",
        "the two matrices that turn keys and values. The rest is what SmolLM2's messages take beside that: "
        f"{_overhead(rows[1]).sent / 1e3:.1f} kB",
        "sent for a token and server. The last column is all weights at 1 Gbit/s, which travel for each process.",
        "",
        f"| model | cache | servers | a token, kB | {' | '.join(NETWORKS)} | weights, s |",
        f"| --- | --- | --- | --- |{' --- |' * len(NETWORKS)} --- |",
    ]
    for name, (shape, weights) in LARGER.items():
        for row in rows:
            quantized, overhead = row["cache"] != "f16", _overhead(row)
            token = computed(**shape, cells=LONG, servers=row["servers"], quantized=quantized, overhead=overhead)
            each = " | ".join(f"{1e3 * added(token, *network):.1f}" for network in NETWORKS.values())
            kilobytes = (token.sent + token.received) / 1e3
            lines.append(
                f"| {name} | {row['cache']} | {row['servers']} | {kilobytes:.0f} | {each} | {8 * weights / 1e9:.0f} |"
            )
    return lines


def _check(results: dict[str, Any]) -> list[str]:
    lines = [
        f"The arithmetic against a proxy that holds back each byte for {1e3 * DELAY:.0f} ms, either way: milliseconds that a "
        "token takes longer,",
        "medians. A busy machine adds some.",
        "",
        "| model | cache | servers | computed | measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, rows in results.items():
        for row in rows:
            expected = row["token"]["turns"] * 2 * row["delay"]["each way"]
            longer = row["delay"]["with"] - row["delay"]["without"]
            lines.append(f"| {name} | {row['cache']} | {row['servers']} | {1e3 * expected:.0f} | {1e3 * longer:.0f} |")
    return lines


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for rpc.json and rpc.md")
    options = parser.parse_args()
    results = measure()
    evidence.write(options.out, "rpc", results, markdown(results))


if __name__ == "__main__":
    main()
