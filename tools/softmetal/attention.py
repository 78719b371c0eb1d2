"""Upstream's test-backend-ops on the software Metal: a cache's operations against the CPU, case by case."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof.programs import backend_ops

from . import build

DEVICE = "MTL0"
#: Those that only the series gives to Metal's attention, so that it is the series' also where keys and values have one.
ADDED = ("iq4_nl", "q6_0", "q3_nl")
#: The types that may differ between keys and values; every ordered pair that the series gives to Metal.
TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", *ADDED)
PAIRS = tuple((k, v) for k in TYPES for v in TYPES if k != v or k in ADDED)

_ANY_PAIR = "|".join(f"type_K={k},type_V={v}," for k, v in PAIRS)
#: The cases of rows in the added types, for test-backend-ops' ``-p``.
ADDED_ROWS = f"=({'|'.join(ADDED)}),"


def mixed(heads: str = r"\d+", pairs: tuple[tuple[str, str], ...] = PAIRS) -> str:
    """The cases of these pairs, for test-backend-ops' ``-p``; ``heads`` is a pattern of K's head size."""
    return f"hsk=({heads}),.*({'|'.join(f'type_K={k},type_V={v},' for k, v in pairs)})"


#: Upstream's own cases that meet every path: both kernels, padding, conversion to f16, all types.
STOCK = (
    r"hsk=(64|72),hsv=(64|72),nh=4,nr23=\[(1|4),1\],kv=(113|512),nb=(1|3|32|75),mask=1,sinks=0,max_bias=0.0.*"
    r"logit_softcap=0.0.*type_K=(f16|q8_0|q4_0|q5_1),.*permute=\[0,1,2,3\],"
)


@dataclass(frozen=True)
class DeviceResults:
    passed: int
    #: The cases that differ from the CPU's result.
    failed: tuple[str, ...]
    #: What the program said when it died; nothing when it did not.
    died: str
    #: The device's counts: kernels by name, each with dispatches, threadgroups, loaded and distinct bytes by buffer;
    #: and the names of tensor kernels.
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return bool(self.passed) and not self.failed and not self.died


def run(
    programs: Path,
    cases: str,
    *,
    operations: str = backend_ops.OPERATION,
    fault: tuple[str, str] | None = None,
    emulated: bool = True,
    **how: bool,
) -> DeviceResults:
    """Run the cases that match ``cases``. ``how`` is ``build.environment``'s; without ``emulated``, on a Mac's own GPU.

    ``fault``: what stands in a kernel's source, and what is to stand there instead, to see whether it is noticed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        environment = build.environment(report=report, **how) if emulated else dict(os.environ)
        if fault:
            planted = Path(scratch) / "fault"
            planted.write_text("\n=====\n".join(fault))
            environment["SOFTMETAL_FAULT"] = str(planted)
        outcome = backend_ops.test(programs, DEVICE, cases, environment, operations)
        counts = json.loads(report.read_text()) if report.is_file() else {}
    return DeviceResults(outcome.passed, outcome.failed, _reason(outcome), counts)


def _reason(outcome: backend_ops.CaseResults) -> str:
    lines = [line for line in outcome.complaints.splitlines() if line.startswith("softmetal:")]
    return outcome.died and (lines[-1] if lines else f"it {outcome.died}")


def supported(programs: Path) -> dict[str, bool]:
    """Every case of flash attention that test-backend-ops has, and whether the device takes it."""
    return backend_ops.support(programs, DEVICE, build.environment())


def tensor_kernels(programs: Path) -> tuple[str, ...]:
    """The kernels that a GPU with tensors (Metal 4: an M5) runs, and that are not emulated: nothing here proves them.

    Raises PatchError when the device was not there to be asked.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        backend_ops.support(programs, DEVICE, build.environment(report=report))
        if not report.is_file():
            raise PatchError("test-backend-ops found no software Metal: build its programs anew.")
        return tuple(json.loads(report.read_text())["tensor_kernels"])


def unproven(kernels: Sequence[str]) -> list[str]:
    """Those of the kernels that compute attention: only a Mac with such a GPU proves them."""
    return [name for name in kernels if "flash_attn" in name]


def is_mixed(case: str) -> bool:
    return re.search(_ANY_PAIR, case) is not None
