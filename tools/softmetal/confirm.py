"""What only a Mac can tell: the series' attention on a real GPU, as one block of text that its owner can paste.

``llm kvsplit doctor --metal`` and ``ci/metal`` run it there. Here it runs on the software device, to be tested.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from kvsplit_patch.building import artifacts as host
from kvsplit_patch.building import cmake
from kvsplit_patch.echo import Echo, echo
from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof.programs import llama_bench
from kvsplit_patch.proof.programs.backend_ops import OPERATION, ROWS
from kvsplit_patch.proof.smoke import OTHERS, demo
from kvsplit_patch.series import trees
from llm_kvsplit.kvtypes import USUAL, CachePair

from . import attention, build, smoke

#: Name -> operations, and the cases of them.
CASES = {
    "attention, different types": (OPERATION, attention.mixed()),
    "attention, upstream's cases": (OPERATION, attention.STOCK),
    "rows of added types": (ROWS, attention.ADDED_ROWS),
}
LOAD = llama_bench.Load(prompt=128, answer=16, depth=256, repeats=2)


@dataclass(frozen=True)
class Confirmation:
    lines: tuple[str, ...]
    problems: tuple[str, ...]


def confirm(
    echo: Echo,
    emulated: bool,
    cases: str = "",
    caches: tuple[CachePair, ...] = (*USUAL, *OTHERS),
    ubatches: tuple[int, ...] = smoke.UBATCHES,
) -> Confirmation:
    """Build the series and try it: attention against the CPU, the bundled model, speed.

    ``cases``: other cases of attention than all of the mixed ones and upstream's, and no others. Raises PatchError where
    there is no Metal, or it does not compile.
    """
    if not emulated and sys.platform != "darwin":
        raise PatchError("This needs a Mac: here, 'kvsplit-patch verify' proves the same on a software Metal.")
    source = trees.patched()
    programs = build.programs(source, echo) if emulated else host.tools(source, cmake.flags(), echo)
    environment = build.environment() if emulated else dict(os.environ)
    lines = [
        f"device: {_device(programs, environment)}{' (emulated)' if emulated else ''}",
        f"system: {platform.platform()}",
        f"llama.cpp: {source.commit}, tree {source.tree}",
        f"patches: {', '.join(patch['name'] for patch in source.patches)}",
    ]
    problems = []
    for name, (operations, pattern) in ({"attention, chosen cases": (OPERATION, cases)} if cases else CASES).items():
        echo(f"test-backend-ops: {name}")
        outcome = attention.run(programs, pattern, operations=operations, emulated=emulated)
        lines.append(f"{name}: {outcome.passed} passed, {len(outcome.failed)} differ{_stopped(outcome)}")
        problems += [f"{name} differ: {case}" for case in outcome.failed]
        if not outcome.clean and not outcome.failed:
            problems.append(f"{name}: {outcome.died or 'nothing ran'}")
    rows = smoke.measure(programs, echo, caches, ubatches, emulated)
    lines += smoke.table(rows)
    problems += [problem for row in rows for problem in row.problems()]
    lines += _speed(programs, environment, echo)
    return Confirmation((*lines, *(f"PROBLEM: {problem}" for problem in problems)), tuple(problems))


def on_this_mac() -> None:
    """Print the block; exit code 1 when something differs. The plugin finds this as the entry point ``metal``."""
    confirmation = confirm(echo, emulated=False)
    click.echo("```\n" + "\n".join(confirmation.lines) + "\n```")
    if confirmation.problems:
        raise PatchError(
            f"{len(confirmation.problems)} things differ on this GPU: paste the block above into an issue."
        )


def _stopped(outcome: attention.DeviceResults) -> str:
    return f", stopped: {outcome.died}" if outcome.died else ""


def _device(programs: Path, environment: dict[str, str]) -> str:
    devices = llama_bench.devices(programs, environment)
    if attention.DEVICE not in devices:
        raise PatchError("llama.cpp finds no Metal device here: is this a Mac with a GPU that macOS lets programs use?")
    return devices[attention.DEVICE]


def _speed(programs: Path, environment: dict[str, str], echo: Echo) -> list[str]:
    lines = []
    for pair in (CachePair.from_bits(16, 16), CachePair.from_bits(8, 4)):
        echo(f"llama-bench with {pair}")
        rates = llama_bench.speed(programs, demo()[0], pair, LOAD, smoke.DEVICES["metal"], environment)
        speeds = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
        lines.append(f"{pair}, tokens/s at depth {LOAD.depth}: {speeds}")
    return lines
