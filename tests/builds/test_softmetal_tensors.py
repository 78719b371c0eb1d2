"""Kernels for GPUs with tensors, which are not emulated: they are named, and nothing calls them proven."""

import pytest

from kvsplit_patch.proof import report, verify
from kvsplit_patch.series import trees
from softmetal import attention, stage

pytestmark = [pytest.mark.build, pytest.mark.timeout(1200)]

#: What stands in a kernel's source, and what upstream might have put there.
PLANTED = (
    "constant bool FC_flash_attn_ext_pad_has_mask",
    "#ifdef GGML_METAL_HAS_TENSOR\n"
    "kernel void kernel_flash_attn_ext_planted(device float * x, uint id [[thread_position_in_grid]]) {\n"
    "    mpp::tensor_ops::matmul2d<mpp::tensor_ops::matmul2d_descriptor(8, 8, 8), execution_simdgroups<4>> mm;\n"
    "}\n"
    "#endif\n"
    "constant bool FC_flash_attn_ext_pad_has_mask",
)


def test_softmetal_upstreams_tensor_kernels_are_named(patched_programs):
    names = attention.tensor_kernels(patched_programs)
    assert "kernel_mul_mm_q4_0_f32" in names
    assert all(name.startswith("kernel_mul_mm_") for name in names)
    assert attention.unproven(names) == []


def test_softmetal_the_stage_calls_no_tensor_kernel_of_attention_proven(tmp_path, monkeypatch):
    fault = tmp_path / "planted"
    fault.write_text("\n=====\n".join(PLANTED))
    monkeypatch.setenv("SOFTMETAL_FAULT", str(fault))
    problems, passed = stage.check(trees.unpatched(), lambda line: None)
    assert passed["upstream's cases"] >= 40
    assert "kernel_flash_attn_ext_planted" in passed["not emulated"]
    assert not any("planted" in problem for problem in problems)  # upstream's own overrun is one
    assert passed["not proven"] == ["kernel_flash_attn_ext_planted"]
    check = verify.Check("softmetal", 0, details=passed)
    page = report.as_markdown(verify.Verdict("today", {}, (check,)))
    assert (
        "| softmetal | ok, but for 1 kernel not proven |" in page
        and "cannot run kernel_flash_attn_ext_planted: " in page
    )
