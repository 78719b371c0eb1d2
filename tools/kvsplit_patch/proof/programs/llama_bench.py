"""Upstream's llama-bench: the speed of a build with a pair of cache types, and the devices that it computes on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_kvsplit.kvtypes import CachePair

from ...errors import PatchError
from . import failure, run

_DEVICE = re.compile(r"^ +(\S+): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What is timed, in tokens: reading a prompt and writing an answer, each behind a filled cache, so many times."""

    prompt: int
    answer: int
    depth: int
    repeats: int


@dataclass(frozen=True)
class Speed:
    """One of its results: of a prompt, where ``n_gen`` is 0, or of an answer."""

    key_type: str
    value_type: str
    n_gen: int
    tokens_per_second: float


def arguments(model: Path, pair: CachePair, load: Load) -> list[Any]:
    """What tells llama-bench to time ``load`` with flash attention: for ``rows``, or to run it inside a program."""
    chosen = ["-m", model, "-ctk", pair.k.name, "-ctv", pair.v.name, "-fa", 1]
    return [*chosen, "-p", load.prompt, "-n", load.answer, "-d", load.depth, "-r", load.repeats]


def speed(
    tools: Path,
    model: Path,
    pair: CachePair,
    load: Load,
    more: Sequence[Any] = (),
    environment: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Tokens/s of ``prefill`` and ``decode``, with ``more`` arguments. Raises PatchError when the program fails."""
    results = rows(tools, [*arguments(model, pair, load), *more], environment, f" with {pair}")
    return {"decode" if row.n_gen else "prefill": row.tokens_per_second for row in results}


def rows(
    tools: Path, arguments: Sequence[Any], environment: Mapping[str, str] | None = None, what: str = ""
) -> list[Speed]:
    """All results of the llama-bench in ``tools``. Raises PatchError, with ``what`` in it, when there are none."""
    done = run([tools / "llama-bench", *arguments, "-o", "json"], environment)
    if done.returncode:
        raise failure("llama-bench", done, what)
    try:
        return [Speed(row["type_k"], row["type_v"], row["n_gen"], row["avg_ts"]) for row in json.loads(done.stdout)]
    except (ValueError, KeyError, TypeError) as error:
        raise PatchError(f"llama-bench printed other JSON{what} than is known here ({error!r}).") from error


def devices(tools: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The devices that it lists, such as ``MTL0``, and what each is. Raises PatchError when the program fails."""
    done = run([tools / "llama-bench", "--list-devices"], environment)
    if done.returncode:
        raise failure("llama-bench", done)
    return {name: description.strip() for name, description in _DEVICE.findall(done.stdout)}
