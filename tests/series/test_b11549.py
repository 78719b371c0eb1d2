"""The series on a llama.cpp that nobody here had seen when it was written: build b11549, of October 2026.

Its files come out of the sdist of a package that vendors them. One patch meets a conflict, and three faults would merge
silently; ``patchset/resolutions/b11549`` has what a person made of that.
"""

import pytest

from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import revisions
from tests.support.release import HERE, fetch
from tests.support.worlds import run, series_on, tree_files

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
METAL = "ggml/src/ggml-metal/"
#: Where upstream does again what metal-mixed-kv has changed elsewhere, and what the resolution makes of it.
SILENT = {
    "if (op->src[1]->type != GGML_TYPE_F16 && !ggml_metal_op_flash_attn_ext_use_kv_f16(op)) {": (
        "ggml-metal-ops.cpp",
        "if ((op->src[1]->type != GGML_TYPE_F16 || op->src[2]->type != GGML_TYPE_F16) && !ggml_metal_op_flash_attn_ext_use_kv_f16(op)) {",
    ),
    "return [device newLibraryWithSource:src options:options error:error];": (
        "ggml-metal-device.m",
        "res = ggml_metal_compile_source((id<MTLDevice>) ggml_metal_device_get_obj(lib->dev), src, options, error);",
    ),
    'template [[host_name("kernel_flash_attn_ext_q8_0_dk128_dv96" )]]': ("ggml-metal-fa-mixed.cpp", "{ 128,  96 }"),
}


def test_it_is_planned_and_moved_as_it_was_resolved(project):
    fetch(HERE)
    plan = run("rebase", "--plan", "b11549")
    states = dict.fromkeys(patchset.load(project / "patchset").names(), "clean") | {
        "metal-mixed-kv": "resolved as kept"
    }
    for name, state in states.items():
        assert f"  {name:20} {state}\n" in plan
    there = tree_files(series_on(revisions.resolve("", "b11549")[0])[-1].after)
    for line, (file, mended) in SILENT.items():
        assert line in plan
        assert mended in there[METAL + file][1].decode()
    run("rebase", "b11549")
    assert patchset.read_lock(project / "patchset").upstream.archive == "b11549"
    run("lint")
    assert tree_files(patchset.read_lock(project / "patchset").result_tree) == there
