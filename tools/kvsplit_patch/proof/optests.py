"""Upstream's test-backend-ops on a build: flash attention of every backend against the CPU.

It passes over what a backend refuses, so ``support`` is asserted as well: a pair of types that we need and that no
case supports is a fault. The CPU is left out unless it is named; named, its fast paths (tiles, split KV) are compared
with its own plain one, which ``use_ref`` selects (ops.cpp). A pair that has no fast path is then compared with
itself, which proves nothing; the patched pairs are proven by what a patch adds, and by ``smoke``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_kvsplit.kvtypes import USUAL

from ..echo import Echo
from ..errors import PatchError
from .programs import backend_ops
from .programs.backend_ops import OPERATION

#: Key and value types that every backend of a build must take; upstream has a case of each.
PAIRS = tuple((pair.k.name, pair.v.name) for pair in USUAL)

# Of 5308 cases: enough shapes to meet every path of the CPU in seconds instead of half an hour.
_CPU_CASES = (
    r"hsk=(64|72),hsv=(64|72),nh=4,nr23=\[(1|4),1\],kv=(96|113|128|512),.*mask=1,sinks=0,max_bias=0.0.*"
    r"logit_softcap=0.0.*type_K=(f16|q8_0|q6_0|q5_1|iq4_nl|q4_0|q3_nl),.*permute=\[0,1,2,3\],"
)


@dataclass(frozen=True)
class Backend:
    name: str
    passed: int
    #: The parameters of the cases that differ.
    failed: tuple[str, ...]
    #: The pairs of PAIRS that it does not take, such as ``q8_0/q4_0``.
    refused: tuple[str, ...]


def run(tools: Path, echo: Echo) -> list[Backend]:
    """Test OPERATION on every backend of the build in ``tools``. Raises PatchError when the program dies."""
    return [_run_on(name, tools, echo) for name in backend_ops.backends(tools)]


def _run_on(name: str, tools: Path, echo: Echo) -> Backend:
    echo(f"test-backend-ops {OPERATION} on {name}")
    taken = [case for case, supported in backend_ops.support(tools, name).items() if supported]
    outcome = backend_ops.test(tools, name, _CPU_CASES if name == "CPU" else "")
    if outcome.died:
        raise PatchError(f"test-backend-ops test {outcome.died}.")
    refused = tuple(f"{k}/{v}" for k, v in PAIRS if not any(f"type_K={k},type_V={v}," in case for case in taken))
    return Backend(name, outcome.passed, outcome.failed, refused)


def problems(backends: list[Backend]) -> list[str]:
    """One sentence for each case that differs, each pair refused, and each backend of which nothing ran."""
    sentences = []
    for backend in backends:
        sentences += [f"{OPERATION} on {backend.name} differs from the CPU's: {case}." for case in backend.failed]
        if backend.refused:
            sentences.append(f"{OPERATION} on {backend.name} refuses {', '.join(backend.refused)}.")
        if not backend.passed and not backend.failed:
            sentences.append(f"{OPERATION} on {backend.name}: not one case ran.")
    return sentences
