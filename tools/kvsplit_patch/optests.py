"""Upstream's test-backend-ops on a build: flash attention of every backend against the CPU.

It passes over what a backend refuses, so ``support`` is asserted as well: a pair of types that we need and that no
case supports is a fault. The CPU is left out unless it is named; named, its fast paths (tiles, split KV) are compared
with its own plain one, which ``use_ref`` selects (ops.cpp). A pair that has no fast path is then compared with
itself, which proves nothing; the patched pairs are proven by what a patch adds, and by ``smoke``.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cmake import Echo
from .errors import PatchError

OPERATION = "FLASH_ATTN_EXT"
#: Key and value types that every backend of a build must take; upstream has a case of each.
PAIRS = (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q8_0"), ("q4_0", "q4_0"))

# Of 5308 cases: enough shapes to meet every path of the CPU in seconds instead of half an hour.
_CPU_CASES = (
    r"hsk=(64|72),hsv=(64|72),nh=4,nr23=\[(1|4),1\],kv=(96|113|128|512),.*mask=1,sinks=0,max_bias=0.0.*"
    r"logit_softcap=0.0.*type_K=(f16|q8_0|q5_1|q4_0),.*permute=\[0,1,2,3\],"
)
_CASE = re.compile(rf"^\s*{OPERATION}\((?P<case>.*)\): (?P<said>.*)$", re.MULTILINE)


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
    found = []
    for name in _backends(tools):
        echo(f"test-backend-ops {OPERATION} on {name}")
        support = _cases(tools, "support", "-b", name)
        only = ["-p", _CPU_CASES] if name == "CPU" else []
        ran = {case: said for case, said in _cases(tools, "test", "-b", name, *only).items() if "not supported" not in said.lower()}
        found.append(
            Backend(
                name=name,
                passed=sum(said.endswith("OK") for said in ran.values()),
                failed=tuple(case for case, said in ran.items() if not said.endswith("OK")),
                refused=tuple(
                    f"{k}/{v}"
                    for k, v in PAIRS
                    if not any(f"type_K={k},type_V={v}," in case and said == "SUPPORTED" for case, said in support.items())
                ),
            )
        )
    return found


def problems(backends: list[Backend]) -> list[str]:
    """One sentence for each case that differs, each pair refused, and each backend of which nothing ran."""
    found = []
    for backend in backends:
        found += [f"{OPERATION} on {backend.name} differs from the CPU's: {case}." for case in backend.failed]
        if backend.refused:
            found.append(f"{OPERATION} on {backend.name} refuses {', '.join(backend.refused)}.")
        if not backend.passed and not backend.failed:
            found.append(f"{OPERATION} on {backend.name}: not one case ran.")
    return found


def _backends(tools: Path) -> list[str]:
    printed = _run(tools, "support", "-o", "none-at-all")
    names = re.findall(r"^Backend \d+/\d+: (\S+)$", printed, re.MULTILINE)
    if not names:
        raise PatchError("test-backend-ops found no backend: build the tools anew.")
    return names


def _cases(tools: Path, mode: str, *arguments: str) -> dict[str, str]:
    printed = _run(tools, mode, "-o", OPERATION, *arguments)
    return {found["case"]: found["said"].strip() for found in _CASE.finditer(printed)}


def _run(tools: Path, *arguments: str) -> str:
    said = subprocess.run([str(tools / "test-backend-ops"), *arguments], capture_output=True, text=True, errors="replace")
    if said.returncode < 0:
        raise PatchError(f"test-backend-ops {arguments[0]} died of signal {-said.returncode}.")
    return re.sub(r"\x1b\[[\d;]*m", "", said.stdout)
