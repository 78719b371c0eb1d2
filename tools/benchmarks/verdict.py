"""The data behind the verdict of ``llm kvsplit compare`` (docs/evidence/verdict.md).

    python tools/benchmarks/verdict.py FOLDER MODEL.gguf [--text FILE]…

makes the same model with other weights in FOLDER (f16, Q8_0 and, of an f16 model, Q4_0 and Q4_K_M), and for each of
them and each text measures every pair of cache bits, the nudged f16 cache with nudges of many sizes, other ways of
disturbing an f16 cache, and what the weights' own quantization does. Texts are the bundled code, Python's own manual
(pydoc), and those given. Each measurement is kept in FOLDER/verdict.json as it is made; the same call goes on from there,
and prints all tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pydoc_data.topics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llm_kvsplit import demo, files, gguf
from llm_kvsplit.bench import noise, quality, summary
from llm_kvsplit.builds import choice, probe
from llm_kvsplit.engine import library
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair, CacheType

PAIRS = tuple(CachePair.from_bits(*bits) for bits in ((8, 8), (8, 4), (5, 8), (5, 5), (4, 8)))
NUDGES = (1e-5, 1e-4, 1e-3, 1e-2)
#: A bf16 cache's error is about a fifth of q8_0's.
BF16 = CacheType("bf16", 30, 16, 2, block=1)
#: enum llama_ftype in llama.h; a build's own definitions hold only what the plugin uses.
FTYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}
N_CTX, WINDOWS = 1024, 2
#: One, since threads that wait for each other lose most of their time on a machine that does other things too.
THREADS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no measurement after so long")
    arguments = parser.parse_args()
    began = time.monotonic()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    store = arguments.folder / "verdict.json"
    runs = json.loads(store.read_text()) if store.exists() else {}
    models, texts = variants(arguments.model, arguments.folder), corpora(arguments.text)
    for name, work in jobs(models, texts):
        if name not in runs:
            if time.monotonic() - began > arguments.seconds:
                raise SystemExit("The time is over; the same call goes on from here.")
            print(name, flush=True)
            runs[name] = work()
            files.write_whole(store, json.dumps(runs, indent=1))
    print(page(runs))


def variants(model: Path, folder: Path) -> dict[str, Path]:
    """The model with weights of several types, all from the same values: name of the type -> file."""
    types = {"f16": "F16", "Q8_0": "Q8_0"}
    own = gguf.read(model).weights
    if own.lower() == "f16":
        types |= {"Q4_0": "Q4_0", "Q4_K_M": "Q4_K_M"}
    made = {own if own != "F16" else "f16": model}
    for name, ftype in types.items():
        if name not in made:
            source, made[name] = made.get("f16", model), folder / f"{model.stem}-{name}.gguf"
            if not made[name].exists():
                convert(source, made[name], ftype)
    return made


def convert(source: Path, target: Path, ftype: str) -> None:
    lib = library.load()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = FTYPES[ftype], True
    part = target.with_suffix(".part")
    with library.log.capture() as lines:
        if lib.llama_model_quantize(str(source).encode(), str(part).encode(), params):
            raise SystemExit(f"{source} could not be made {ftype}: {library.error_text(lines)}")
    part.rename(target)


def corpora(given: list[Path]) -> dict[str, str]:
    topics = pydoc_data.topics.topics
    texts = {"code": demo.SMOKE_TEXT.read_text(), "manual": "\n\n".join(topics[name] for name in sorted(topics))}
    return texts | {file.stem: file.read_text() for file in given}


def jobs(models: dict[str, Path], texts: dict[str, str]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    code, manual, *given = texts
    for what, contexts, names in (
        ("pairs", pairs, (code, manual)),
        ("nudges", nudges, (code,)),
        ("pairs", pairs, given),
    ):
        for text, kind in itertools.product(names, models):
            yield f"{what}/{kind}/{text}", lambda m=models[kind], t=texts[text], c=contexts: measured(m, t, c)
    others = {kind: file for kind, file in models.items() if kind != "f16"}
    yield "weights/f16/code", lambda: measured(models["f16"], texts["code"], lambda _, stack: weights(others, stack))


def measured(model: Path, text: str, contexts: Callable[..., dict[Any, Context]]) -> dict[str, Any]:
    """Summary of each cache against f16, by its name."""
    with ExitStack() as stack:
        loaded = opened(model, stack)
        tokens = loaded.tokenize(text, add_special=True, parse_special=False)
        caches = {None: cache(loaded, quality.F16, stack), **contexts(loaded, stack)}
        parts = [quality.window(caches, each, step) for each in quality.windows(tokens, N_CTX, WINDOWS)]
        return {str(name): quality.joined(part[name] for part in parts).summary() for name in parts[0]}


@contextmanager
def step(_name: Any, _what: str, _count: int) -> Iterator[None]:
    yield


def opened(model: Path, stack: ExitStack) -> Weights:
    loaded = Weights(LoadOptions(model, use_extra_bufts=probe.result(choice.current()).extra_bufts))
    stack.callback(loaded.close)
    return loaded


def cache(loaded: Weights, pair: CachePair, stack: ExitStack, flash_attn: bool | None = None) -> Context:
    context = Context(loaded, ContextOptions(pair, N_CTX, THREADS, flash_attn))
    stack.callback(context.close)
    return context


def nudged(loaded: Weights, share: float, stack: ExitStack) -> Context:
    context = noise.nudged(loaded, N_CTX, THREADS, share)
    stack.callback(context.close)
    return context


def pairs(loaded: Weights, stack: ExitStack) -> dict[str, Context]:
    made = {str(pair): cache(loaded, pair, stack) for pair in PAIRS}
    return {"f16": nudged(loaded, noise.NUDGE, stack), **made}


def nudges(loaded: Weights, stack: ExitStack) -> dict[str, Context]:
    made = {f"{share:g}": nudged(loaded, share, stack) for share in NUDGES}
    made["bf16 cache"] = cache(loaded, CachePair(BF16, BF16), stack)
    made["without flash attention"] = cache(loaded, quality.F16, stack, flash_attn=False)
    return made


def weights(others: dict[str, Path], stack: ExitStack) -> dict[str, Context]:
    return {kind: cache(opened(file, stack), quality.F16, stack) for kind, file in others.items()}


def page(runs: dict[str, dict[str, Any]]) -> str:
    """All tables: damage of everything, nudges, and all figures of each run on the bundled text."""
    measured_pairs, measured_nudges = (
        {name.split("/", 1)[1]: run for name, run in runs.items() if name.startswith(what)}
        for what in ("pairs/", "nudges/")
    )
    tables = ["### damage ± half its 95 % interval (mean KL)\n", summary.markdown(damage_rows(measured_pairs))]
    if measured_nudges:
        tables += ["\n### mean KL of the f16 cache, disturbed\n", summary.markdown(nudge_rows(measured_nudges))]
    for name in sorted(runs, key=lambda each: not each.startswith("pairs/")):
        if name.endswith("/code") and not name.startswith("nudges/"):
            tables += [f"\n### {name}\n", summary.markdown(plain_rows(runs[name]))]
    return "\n".join(tables)


def nudge_rows(measured_nudges: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    kinds = sorted((name.split("/")[0] for name in measured_nudges), key=lambda each: (each != "f16", each))
    table = [("f16 cache", *(f"{kind} weights" for kind in kinds))]
    names, shares = list(next(iter(measured_nudges.values()))), [f"{share:g}" for share in NUDGES]
    for nudge in [*shares, *(name for name in names if name not in shares)]:
        words = f"nudged by {nudge}" if nudge in shares else nudge
        table.append((words, *(f"{measured_nudges[f'{kind}/code'][nudge]['kl_mean'][0]:.6f}" for kind in kinds)))
    return table


def damage_rows(measured_pairs: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    kinds, texts = (
        sorted({name.split("/")[i] for name in measured_pairs}, key=lambda each: (each != "f16", each)) for i in (0, 1)
    )
    table = [("text", "cache", *(f"{kind} weights" for kind in kinds))]
    for text in texts:
        runs = [measured_pairs.get(f"{kind}/{text}") for kind in kinds]
        for pair in ("f16", *map(str, PAIRS)):
            table.append((text if pair == "f16" else "", pair, *((run and harm(run, pair)) or "" for run in runs)))
        table.append(("", "smallest that passes", *((run and smallest(run)) or "" for run in runs)))
    return table


def harm(run: dict[str, Any], pair: str) -> str:
    whole = f"({run[pair]['kl_mean'][0]:.5f})"
    if pair == "f16":
        return whole
    value, _, high = quality.damage(run[pair], run["f16"])
    return f"{value:.5f} ± {high - value:.5f} {whole}"


def smallest(run: dict[str, Any]) -> str:
    """By the product's rule: of all pairs, and of those that ``compare`` takes when none are named."""
    sound = [pair for pair in PAIRS if quality.damage(run[str(pair)], run["f16"])[2] <= summary.LARGEST_DAMAGE]
    usual = [pair for pair in sound if 5 not in (pair.k.bits, pair.v.bits)]
    best = [
        min(each, key=lambda pair: pair.k.bits_per_value + pair.v.bits_per_value) for each in (usual, sound) if each
    ]
    return ", ".join(dict.fromkeys(map(str, best))) or "f16"


def plain_rows(run: dict[str, Any]) -> list[tuple[str, ...]]:
    head = ("", "mean KL", "99.9 % KL", "99.9 % moved", "same token", "perplexity")
    order = ["f16", *map(str, PAIRS), *(f"{share:g}" for share in NUDGES)]
    names = sorted(run, key=lambda name: order.index(name) if name in order else len(order))
    return [head, *((name, *figures(run[name])) for name in names)]


def figures(each: dict[str, Any]) -> tuple[str, ...]:
    same, change = each["same_top"], each["ppl_change"]
    return (
        plus_minus(each["kl_mean"]),
        f"{each['kl_999'][0]:.3f}",
        f"{each['moved_999'][0]:.0%}",
        f"{100 * same[0]:.1f} ± {50 * (same[2] - same[1]):.1f} %",
        f"{100 * change[0]:+.2f} ± {50 * (change[2] - change[1]):.2f} %",
    )


def plus_minus(interval: list[float]) -> str:
    return f"{interval[0]:.5f} ± {(interval[2] - interval[1]) / 2:.5f}"


if __name__ == "__main__":
    main()
