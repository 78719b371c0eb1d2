"""Upstream's llama-perplexity: what each cache does to a model's predictions of a text.

The numbers are upstream's; KL divergence is against the predictions of the same build with an f16 cache, which the
first of its runs stores.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_kvsplit import files
from llm_kvsplit.kvtypes import F16, CachePair

from ...errors import PatchError
from . import failure, run

_PLAIN = CachePair(F16, F16)
# Not only the label: "Same top p" is also the last word of a table's head.
_NUMBER = r" *[:=] *(-?[\d.]+|-?nan|-?inf)"
_CACHE = r", K \((\w+)\):\s*([\d.]+) MiB, V \((\w+)\):\s*([\d.]+) MiB"


@dataclass(frozen=True)
class Windows:
    """How a text is read: contexts of so many tokens, how many of them, and how many tokens are computed at once."""

    context: int
    count: int
    at_once: int


@dataclass(frozen=True)
class CacheResult:
    """One cache. KL divergences in nats against the same build's f16 cache, ``same_top`` in percent."""

    ppl: float
    kld: float
    kld_999: float
    same_top: float
    #: MiB as llama.cpp allocated them, to two decimals, and what the types and the model's shape make them.
    k_mib: float
    v_mib: float
    k_mib_expected: float
    v_mib_expected: float


@dataclass(frozen=True)
class Comparison:
    #: By the cache's name; f16 is always among them.
    results: dict[str, CacheResult]
    #: SHA-256 of the predictions with the f16 cache.
    logits: str


def compare(
    tools: Path,
    model: Path,
    text: Path,
    pairs: Iterable[CachePair],
    windows: Windows,
    *,
    what: str,
    threads: int,
    more: Sequence[Any] = (),
    environment: Mapping[str, str] | None = None,
    begun: Callable[[CachePair], None] = lambda pair: None,
) -> Comparison:
    """Run f16 and ``pairs`` one after the other, with ``more`` arguments; ``begun`` hears of each before it runs.

    Raises PatchError, with ``what`` in it, when the program dies or prints no numbers.
    """
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        common = ["-m", model, "-f", text, "-c", windows.context, "-b", windows.context, "-ub", windows.at_once]
        common += ["--chunks", windows.count, "-t", threads, "-fa", "on", "-lv", 4, "--kl-divergence-base", base, *more]
        for pair in dict.fromkeys([_PLAIN, *pairs]):
            begun(pair)
            types = ["-ctk", pair.k.name, "-ctv", pair.v.name, "--kl-divergence"] if pair != _PLAIN else []
            printed = output(tools, [*common, *types], environment, f" in {what} with {pair}")
            results[str(pair)] = read(printed, pair, windows.context, what)
        return Comparison(results, files.sha256(base))


def output(tools: Path, arguments: Sequence[Any], environment: Mapping[str, str] | None = None, what: str = "") -> str:
    """All that the llama-perplexity in ``tools`` prints. Raises PatchError, with ``what`` in it, when it fails."""
    child = Path(__file__).with_name("llama_perplexity_child.py")
    done = run([sys.executable, child, tools, *arguments], environment)
    if done.returncode:
        raise failure("llama-perplexity", done, what)
    return done.stdout + done.stderr


def read(printed: str, pair: CachePair, context: int, what: str) -> CacheResult:
    """The numbers in what it printed with ``-lv 4``. Raises PatchError for one that is not there."""

    def number(label: str) -> float:
        match = re.search(re.escape(label).replace(r"\ ", " +") + _NUMBER, printed)
        if not match:
            raise PatchError(f"llama-perplexity printed no {label} for {what} with {pair}.")
        return float(match[1])

    if pair == _PLAIN:
        ppl, kld, kld_999, same_top = number("Final estimate: PPL"), 0.0, 0.0, 100.0
    else:
        ppl, same_top = number("Mean PPL(Q)"), number("Same top p")
        kld, kld_999 = number("Mean KLD"), number("99.9% KLD")
    k_mib, v_mib = _allocated(printed, pair, what)
    rows = context * number("n_layer") * number("n_head_kv") / 2**20
    return CacheResult(
        ppl=ppl,
        kld=kld,
        kld_999=kld_999,
        same_top=same_top,
        k_mib=k_mib,
        v_mib=v_mib,
        k_mib_expected=rows * number("n_embd_head_k") * pair.k.bits_per_value / 8,
        v_mib_expected=rows * number("n_embd_head_v") * pair.v.bits_per_value / 8,
    )


def cache_types(printed: str) -> tuple[str, str]:
    """The types of keys and values in what it printed with ``-lv 4``. Raises PatchError when they are not there."""
    if not (cache := re.search(_CACHE, printed)):
        raise PatchError("llama-perplexity printed no types of its cache: report it.")
    return cache[1], cache[3]


def _allocated(printed: str, pair: CachePair, what: str) -> tuple[float, float]:
    """MiB of keys and values of the first cache with the types of ``pair``."""
    for k_type, k_mib, v_type, v_mib in re.findall(_CACHE, printed):
        if (k_type, v_type) == (pair.k.name, pair.v.name):
            return float(k_mib), float(v_mib)
    raise PatchError(f"llama-perplexity printed no size of the cache for {what} with {pair}.")
