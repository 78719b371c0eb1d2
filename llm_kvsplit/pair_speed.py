"""How long a prompt takes with a pair of cache types against f16: measured, with the library at hand on this machine.

The bundled model evaluates a few tokens behind 4096 that are in the cache already, since that is what the average token
of a prompt of 8192 costs. Those 4096 are copies of 64 computed ones, put into the cache as a state: what they say does
not matter here, and a slow library would take half a minute to compute them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from . import demo, files
from .kvtypes import CachePair
from .paths import cache_dir

if TYPE_CHECKING:
    from .backend import Backend
    from .engine.context import Context
    from .engine.weights import Weights

F16 = CachePair.from_bits(16, 16)
#: The prompt that the figure is for, in tokens.
PROMPT = 8192
_COMPUTED, _DEPTH, _BATCH, _TURNS = 64, PROMPT // 2, 64, 4
MEND = "llm kvsplit backend install"
#: A pair that takes so much longer than f16 is worth a word; less is noise or a fair price.
SLOW = 1.5


@dataclass(frozen=True)
class PairSpeed:
    #: Time of a prompt of PROMPT tokens, as a multiple of f16's.
    factor: float
    #: Where attention runs; None where llama.cpp does not say.
    device: str | None
    #: The GPU whose kernels the library lacks for this pair, so that attention runs on the CPU; "" for none.
    fallen_from: str = ""

    @property
    def poor(self) -> bool:
        return bool(self.fallen_from) or self.factor >= SLOW

    def words(self, pair: CachePair) -> str:
        """Such as "on the CPU, 8.1 times slower than f16 at 8192 tokens"."""
        where = f"on {self.device}" if self.device else "where its attention runs is not known"
        if not pair.quantized:
            return where
        if self.factor >= SLOW:
            return f"{where}, {self.factor:.1f} times slower than f16 at {PROMPT} tokens"
        share = f"{1 / self.factor:.2f} times f16's speed at {PROMPT} tokens"
        return f"{where}, {share}"


def sentence(speed: PairSpeed, pair: CachePair, chosen: "Backend") -> str:
    """What a person has to know before they use ``pair``, and what mends it; empty for nothing."""
    if not speed.poor:
        return ""
    mend = "the patch series has nothing faster for this machine" if chosen.patched else f"'{MEND}' mends that"
    why = f"attention runs on the CPU instead of {speed.fallen_from}, and " if speed.fallen_from else ""
    return (
        f"With {pair} {why}a prompt of {PROMPT} tokens takes {speed.factor:.1f} times as long as with f16 (measured with the "
        f"bundled model and this library): {mend}."
    )


def of(chosen: "Backend", pair: CachePair) -> PairSpeed | None:
    """The remembered speed of ``pair`` with this library on this CPU, or a new measurement in a child process (seconds).

    None where it could not be measured.
    """
    from . import probe

    file = cache_dir() / "probes" / f"{probe.key(chosen)}-{pair}.json"
    try:
        return PairSpeed(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    command = [sys.executable, "-m", "llm_kvsplit.pair_speed", str(pair.k.bits), str(pair.v.bits)]
    environment = dict(os.environ)
    if chosen.folder is not None:
        environment["LLAMA_CPP_LIB_PATH"] = str(chosen.folder)
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode:
        return None
    speed = PairSpeed(**json.loads(child.stdout.splitlines()[-1]))
    files.write_cached(file, json.dumps(asdict(speed)))
    return speed


def measure(weights: "Weights", pair: CachePair) -> PairSpeed:
    """Raises KvsplitError when llama.cpp cannot make the cache."""
    from .engine.context import Context, ContextOptions

    contexts: list[Context] = []
    try:
        for each in dict.fromkeys((F16, pair)):
            contexts.append(_filled(Context(weights, ContextOptions(each, _DEPTH + _BATCH))))
        # In turns, and the best of each: whatever else the machine does only ever adds time. What looks slow is looked
        # at twice, since it is remembered.
        seconds = [(_seconds(contexts[0]), _seconds(contexts[-1])) for _ in range(_TURNS)]
        if _factor(seconds) >= SLOW:
            seconds += [(_seconds(contexts[0]), _seconds(contexts[-1])) for _ in range(_TURNS)]
        return PairSpeed(_factor(seconds) if pair.quantized else 1.0, *_place(contexts[-1]))
    finally:
        for context in contexts:
            context.close()


def _factor(seconds: list[tuple[float, float]]) -> float:
    of_f16, of_pair = map(min, zip(*seconds))
    return of_pair / of_f16


def _place(context: "Context") -> tuple[str | None, str]:
    """The device of attention, and the GPU that it fell from."""
    from .engine import library

    gpus = [device["description"] for device in library.devices() if device["type"] in ("gpu", "igpu")]
    if context.attention is None:
        return None, ""
    if context.attention == "GPU":
        return gpus[0], ""
    return "the CPU", gpus[0] if gpus else ""


def _filled(context: "Context") -> "Context":
    from .engine import rows

    context.evaluate(list(range(100, 100 + _COMPUTED)))
    tokens = context.tokens * (_DEPTH // _COMPUTED)
    state = rows.repeated(context.state(), _COMPUTED, _DEPTH // _COMPUTED)
    context.clear()
    if not context.restore(state, tokens):
        context.evaluate(tokens)
    return context


def _seconds(context: "Context") -> float:
    """Seconds that a batch takes behind the filled cache, which is as before afterwards."""
    began = time.perf_counter()
    context.evaluate(list(range(200, 200 + _BATCH)))
    context.synchronize()
    seconds = time.perf_counter() - began
    context.keep_prefix([*context.tokens[:_DEPTH], 0])
    return seconds


def _child(key_bits: int, value_bits: int) -> None:
    from . import backend, probe
    from .engine.weights import LoadOptions, Weights

    weights = Weights(LoadOptions(demo.MODEL, use_extra_bufts=probe.result(backend.ensure()).extra_bufts))
    print(json.dumps(asdict(measure(weights, CachePair.from_bits(key_bits, value_bits)))))


if __name__ == "__main__":
    _child(*map(int, sys.argv[1:]))
