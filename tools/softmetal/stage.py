"""The Metal stage of ``kvsplit-patch verify``: the series' attention on the software Metal."""

from __future__ import annotations

import sys
from typing import Any

from kvsplit_patch.echo import Echo
from kvsplit_patch.proof.programs import backend_ops
from kvsplit_patch.series.trees import SourceTree

from . import attention, build

PATCH = "metal-mixed-kv"


def check(source: SourceTree, echo: Echo) -> tuple[list[str], dict[str, Any]]:
    """Build ``source`` with the software Metal and run flash attention on it: problems, and what passed.

    Kernels that cannot be emulated stand beside what passed, by name; those of attention as ``not proven``. Raises
    PatchError when it does not compile, or the device's compiler is missing.
    """
    if not sys.platform.startswith("linux"):
        return [], {"left to": "the real Metal, in optests"}
    programs = build.programs(source, echo)
    wanted = {"upstream's cases": (attention.STOCK, False)}
    if any(patch["name"] == PATCH for patch in source.patches):
        wanted |= {
            "different types": (attention.mixed("64"), False),
            "different types, reversed": (attention.mixed("64"), True),
        }
    problems: list[str] = []
    passed: dict[str, Any] = {}
    for name, (cases, reverse) in wanted.items():
        echo(f"test-backend-ops {backend_ops.OPERATION} on the software Metal: {name}")
        outcome = attention.run(programs, cases, reverse=reverse)
        passed[name] = outcome.passed
        problems += [f"{name}: the software Metal differs from the CPU: {case}." for case in outcome.failed]
        if outcome.died:
            problems.append(f"{name}: test-backend-ops stopped: {outcome.died}.")
        elif not outcome.passed and not outcome.failed:
            problems.append(f"{name}: not one case ran on the software Metal.")
    tensors = attention.tensor_kernels(programs)
    return problems, {**passed, "not emulated": list(tensors), "not proven": attention.unproven(tensors)}
