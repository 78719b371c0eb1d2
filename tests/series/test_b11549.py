"""The series on a llama.cpp that nobody here had seen when it was written: build b11549, of October 2026.

Its files come out of the sdist of a package that vendors them. One patch is there already, and another lacks a pair of head
sizes; ``patchset/resolutions/b11549`` has what a person made of that.
"""

import pytest

from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import revisions
from tests.support.release import HERE, fetch
from tests.support.worlds import run, series_on, tree_files

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
METAL = "ggml/src/ggml-metal/"
#: What the plan shows of upstream's new lines, where metal-mixed-kv asks the same elsewhere.
SHOWN = (
    "if (op->src[1]->type != GGML_TYPE_F16 && !ggml_metal_op_flash_attn_ext_use_kv_f16(op)) {",
    'template [[host_name("kernel_flash_attn_ext_q8_0_dk128_dv96" )]]',
)
#: What the resolution makes of the second: a pair of head sizes that is not at the base.
MENDED = ("ggml-metal-fa-mixed.cpp", "{ 128,  96 }")


def test_it_is_planned_and_moved_as_it_was_resolved(project):
    fetch(HERE)
    plan = run("rebase", "--plan", "b11549")
    states = dict.fromkeys(patchset.load(project / "patchset").names(), "clean") | {
        "metal-fa-large-heads": "resolved as kept",  # upstream has it, so it is dropped
        "metal-mixed-kv": "resolved as kept",
        "rpc-errors": "resolved as kept",
    }
    for name, state in states.items():
        assert f"  {name:20} {state}\n" in plan
    there = tree_files(series_on(revisions.resolve("", "b11549")[0])[-1].after)
    assert all(line in plan for line in SHOWN)
    file, mended = MENDED
    assert mended in there[METAL + file][1].decode()
    run("rebase", "b11549")
    assert patchset.read_lock(project / "patchset").upstream.archive == "b11549"
    run("lint")
    assert tree_files(patchset.read_lock(project / "patchset").result_tree) == there
