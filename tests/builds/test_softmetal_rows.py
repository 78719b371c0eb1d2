"""Rows that the software Metal writes to a cache and reads there, in the types that Metal has from the series."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvsplit_patch.proof.programs import backend_ops
from softmetal import attention, build
from tests.support import ggml_rows

pytestmark = [pytest.mark.build, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_softmetal_rows_agree_with_the_cpu(patched_programs, reverse):
    outcome = attention.run(patched_programs, attention.ADDED_ROWS, operations=backend_ops.ROWS, reverse=reverse)
    print(f"{outcome.passed} cases passed")
    assert outcome.clean and outcome.passed >= 40
    for kind in ("q6_0", "q3_nl"):
        ran = [f"set_rows_f32_i64_{kind}", f"get_rows_{kind}", f"cpy_f32_{kind}", f"cpy_{kind}_f32"]
        assert {f"kernel_{name}" for name in ran} <= set(outcome.report["kernels"])


def test_softmetal_rows_have_the_bytes_that_the_cpu_makes(patched_programs):
    program = Path(ggml_rows.__file__)
    done = subprocess.run(
        [sys.executable, program, patched_programs, attention.DEVICE, "CPU"],
        env=build.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == set(attention.ADDED)
    for name, kinds in result.items():
        for kind, (blocks_differ, values_differ, blocks) in kinds.items():
            print(f"{name}, {kind}: {blocks_differ} of {blocks} blocks differ, and {values_differ} values")
            # Where a compiler joins a product and a sum, about one block of q6_0 in 40,000 differs.
            assert (blocks, blocks_differ, values_differ) == (65536, 0, 0)
