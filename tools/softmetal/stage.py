"""The Metal stage of ``kvsplit-patch verify``: the series' attention on the software Metal."""

from __future__ import annotations

import sys
from typing import Any

from kvsplit_patch.echo import Echo
from kvsplit_patch.proof.programs import backend_ops
from kvsplit_patch.series.trees import SourceTree

from . import attention, build

PATCH, TYPES_PATCH = "metal-mixed-kv", "metal-kv-types"


def check(source: SourceTree, echo: Echo) -> tuple[list[str], dict[str, Any]]:
    """Build ``source`` with the software Metal and run a cache's operations on it: problems, and what passed.

    Kernels that cannot be emulated stand beside what passed, by name; those of attention as ``not proven``. Raises
    PatchError when it does not compile, or the device's compiler is missing.
    """
    if not sys.platform.startswith("linux"):
        return [], {"left to": "the real Metal, in optests"}
    programs = build.programs(source, echo)
    carried = {patch["name"] for patch in source.patches}
    wanted = {"upstream's cases": (backend_ops.OPERATION, attention.STOCK, False)}
    if PATCH in carried:
        wanted |= {
            "different types": (backend_ops.OPERATION, attention.mixed("64"), False),
            "different types, reversed": (backend_ops.OPERATION, attention.mixed("64"), True),
        }
    if TYPES_PATCH in carried:
        wanted["rows of added types"] = (backend_ops.ROWS, attention.ADDED_ROWS, False)
    problems: list[str] = []
    passed: dict[str, Any] = {}
    for name, (operations, cases, reverse) in wanted.items():
        echo(f"test-backend-ops {operations} on the software Metal: {name}")
        outcome = attention.run(programs, cases, operations=operations, reverse=reverse)
        passed[name] = outcome.passed
        problems += [f"{name}: the software Metal differs from the CPU: {case}." for case in outcome.failed]
        if outcome.died:
            problems.append(f"{name}: test-backend-ops stopped: {outcome.died}.")
        elif not outcome.passed and not outcome.failed:
            problems.append(f"{name}: not one case ran on the software Metal.")
    tensors = attention.tensor_kernels(programs)
    return problems, {**passed, "not emulated": list(tensors), "not proven": attention.unproven(tensors)}
