"""Faults in kernels and in the host's code, planted one at a time: the software Metal notices each."""

import re
from dataclasses import replace

import pytest

from kvsplit_patch.proof.programs.backend_ops import OPERATION, ROWS
from kvsplit_patch.series import trees
from kvsplit_patch.upstream import store
from softmetal import attention, build

pytestmark = [pytest.mark.build, pytest.mark.timeout(1200)]

CASES = attention.mixed("64", (("q8_0", "q4_0"), ("f16", "q8_0")))

#: What stands in a kernel's source, and what the fault makes of it.
FAULTS = {
    "V has K's type": ("FA_CAT(FA_TYPE_, FA_V)", "FA_CAT(FA_TYPE_, FA_K)"),
    "V is read with K's number of pieces in a block": (
        "deq_v_t4(pv4 + i/nl_v, i%nl_v, mv);",
        "deq_v_t4(pv4 + i/nl_k, i%nl_k, mv);",
    ),
    "the pad kernel reads V with K's stride": (
        "device const char * v_src = v + args.nb21*(ic0 + i1)",
        "device const char * v_src = v + args.nb11*(ic0 + i1)",
    ),
    "no simdgroup barrier before the softmax": (
        "            simdgroup_barrier(mem_flags::mem_threadgroup);\n\n            // online softmax",
        "            // online softmax",
    ),
    "no threadgroup barrier before the simdgroups are summed": (
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n\n    // parallel reduce",
        "    // parallel reduce",
    ),
    "no threadgroup barrier between Q*K and the softmax": (
        "            threadgroup_barrier(mem_flags::mem_threadgroup);\n\n            // online softmax",
        "            // online softmax",
    ),
    "no simdgroup barrier before a matrix is loaded": (
        "sv4x4[4*ty + tx] = tmp;\n                                }\n\n"
        "                                simdgroup_barrier(mem_flags::mem_threadgroup);",
        "sv4x4[4*ty + tx] = tmp;\n                                }\n",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_kernel_is_noticed(patched_programs, name):
    outcomes = (
        attention.run(patched_programs, CASES, fault=FAULTS[name], reverse=reverse) for reverse in (False, True)
    )
    assert any(not outcome.clean for outcome in outcomes)


#: In the kernels of the series' own types: what stands there, what the fault makes of it, operations and cases.
TYPES_CASES = attention.mixed("64", (("q6_0", "q3_nl"),))
TYPE_FAULTS = {
    "upper bits are another value's": ("xb->qh[4*(il%2) + i] >> 2", "xb->qh[4*(il%2)] >> 2", OPERATION, TYPES_CASES),
    "the sign of a scale is lost": ("(d << 8)", "((d & 0x7f) << 8)", OPERATION, TYPES_CASES),
    "a scale is not tried": ("short i = below - 1;", "short i = below;", ROWS, attention.ADDED_ROWS),
    "only one side is tried": ("side < 2", "side < 1", ROWS, attention.ADDED_ROWS),
}


@pytest.mark.parametrize("name", TYPE_FAULTS)
def test_a_fault_in_a_kernel_of_the_added_types_is_noticed(patched_programs, name):
    *fault, operations, cases = TYPE_FAULTS[name]
    assert attention.run(patched_programs, cases, operations=operations, fault=tuple(fault)).failed


#: Heads that upstream's vector kernel writes behind its memory for, with one type that it has for all of them.
NARROW = r"hsk=(96|192|576),hsv=(96|128|512),nh=(1|4),nr23=\[(1|4),1\],kv=512,nb=1,mask=1,sinks=0,.*type_K=f16,.*permute=\[0,1,2,3\],"


def test_upstreams_vector_kernel_writes_behind_its_memory_and_the_patch_mends_that(patched_programs, stock_programs):
    assert re.search(r"_vec_f16_dk\d+_dv\d+ writes \d+ bytes behind its", attention.run(stock_programs, NARROW).died)
    outcome = attention.run(patched_programs, NARROW)
    assert outcome.clean
    assert {"dk96_dv96", "dk192_dv128", "dk576_dv512"} <= {
        name.partition("_vec_f16_")[2] for name in outcome.report["kernels"]
    }


def test_a_kernel_that_writes_zeros_behind_its_memory_is_noticed(patched_programs):
    # In front of the first barrier, so that no result differs; they end in the gap.
    fault = ("for (short i = tiisg; i < Q*DV4; i += NW) {", "for (short i = tiisg; i < Q*DV4 + 64; i += NW) {")
    outcome = attention.run(patched_programs, CASES, fault=fault)
    assert "bytes behind its" in outcome.died


#: What stands in the host's code of the series, and what the fault makes of it.
HOST = "ggml/src/ggml-metal/ggml-metal-ops.cpp"
HOST_FAULTS = {
    "no barrier between the kernel and the sum of its parts": (
        "            // sync the 2 kernels\n            ggml_metal_op_concurrency_reset(ctx);\n",
        "            // sync the 2 kernels\n",
    ),
    "a quantized V goes to the kernel that has f16 keys": (
        "op->src[1]->type == GGML_TYPE_F16 && !ggml_metal_op_flash_attn_ext_use_vec(op)",
        "false",
    ),
}


def with_host(old, new):
    """The programs of the series with an edit in the host's code."""
    source, repo = trees.patched(), store.open_store()
    mode, blob = store.entry_at(repo, source.tree, HOST)
    text = store.read_blob(repo, blob).decode()
    assert text.count(old) == 1
    tree = store.tree_with(repo, source.tree, {HOST: (mode, repo.create_blob(text.replace(old, new).encode()))})
    return build.programs(replace(source, tree=tree), lambda line: None)


@pytest.mark.parametrize("name", HOST_FAULTS)
def test_softmetal_a_fault_in_the_hosts_code_is_noticed(name):
    programs = with_host(*HOST_FAULTS[name])
    outcomes = (attention.run(programs, CASES, reverse=reverse) for reverse in (False, True))
    assert any(not outcome.clean for outcome in outcomes)


def test_softmetal_large_heads_ask_for_no_more_memory_than_there_is(patched_programs):
    cases = r"hsk=(512|576),hsv=512,.*nb=24,.*type_K=q8_0,type_V=q8_0,"
    outcome = attention.run(patched_programs, cases)
    assert outcome.clean and outcome.passed == 2
    upstreams = with_host("(op->src[0]->ne[0] < 512 || ggml_metal_op_flash_attn_ext_use_vec(op))", "true")
    assert re.search(r"asks for \d+ bytes of threadgroup memory", attention.run(upstreams, cases).died)
