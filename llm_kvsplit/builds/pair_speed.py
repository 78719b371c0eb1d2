"""How long a prompt takes with a pair of cache types, as a multiple of f16's time: remembered for each library.

``engine/pair_timing.py`` measures it, with the library at hand on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

from .. import files
from ..kvtypes import Cache, CachePair
from ..paths import cache_dir
from . import probe
from .shelf import CUSTOM, Build

#: The prompt that the figure is for, in tokens.
PROMPT = 8192
MEND = "llm kvsplit backend install"
#: A person is told of a pair that takes so many times as long as f16. Less is noise, or a fair price.
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

    def words(self, cache: Cache) -> str:
        """Such as "on the CPU, 8.1 times slower than f16 at 8192 tokens"."""
        where = f"on {self.device}" if self.device else "where its attention runs is not known"
        if not cache.quantized:
            return where
        if self.factor >= SLOW:
            return f"{where}, {self.factor:.1f} times slower than f16 at {PROMPT} tokens"
        share = f"{1 / self.factor:.2f} times f16's speed at {PROMPT} tokens"
        return f"{where}, {share}"


def sentence(speed: PairSpeed, pair: CachePair, chosen: Build) -> str:
    """What a person has to know before they use ``pair``, and what mends it; empty for nothing."""
    if not speed.poor:
        return ""
    mend = "the patch series has nothing faster for this machine" if chosen.patched else f"'{MEND}' mends that"
    if chosen.id == CUSTOM and not chosen.patched:
        mend += ", once LLAMA_CPP_LIB_PATH is unset"
    why = f"attention runs on the CPU instead of {speed.fallen_from}, and " if speed.fallen_from else ""
    return (
        f"With {pair} {why}a prompt of {PROMPT} tokens takes {speed.factor:.1f} times as long as with f16 (measured with the "
        f"bundled model and this library): {mend}."
    )


def of(chosen: Build, pair: CachePair) -> PairSpeed | None:
    """The remembered speed of ``pair`` with this library on this CPU, or a new measurement in a child process (seconds).

    None where it could not be measured.
    """
    file = cache_dir() / "probes" / f"{probe.key(chosen)}-{pair}.json"
    try:
        return PairSpeed(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    command = [sys.executable, "-m", "llm_kvsplit.engine.pair_timing", str(pair)]
    environment = dict(os.environ)
    if chosen.folder is not None:
        environment["LLAMA_CPP_LIB_PATH"] = str(chosen.folder)
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode:
        return None
    speed = PairSpeed(**json.loads(child.stdout.splitlines()[-1]))
    files.write_cached(file, json.dumps(asdict(speed)))
    return speed
