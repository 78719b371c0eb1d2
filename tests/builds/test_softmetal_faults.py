"""Faults in kernels and in the host's code, planted one at a time: the software Metal notices each."""

from dataclasses import replace

import pytest

from kvsplit_patch import store, trees
from softmetal import attention, build

pytestmark = [pytest.mark.build, pytest.mark.timeout(1200)]

CASES = attention.mixed("64", (("q8_0", "q4_0"), ("f16", "q8_0")))

#: What stands in a kernel's source, and what the fault makes of it.
FAULTS = {
    "V has K's type": ("FA_CAT(FA_DEQ_, FA_V)", "FA_CAT(FA_DEQ_, FA_K)"),
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


def test_a_kernel_of_ours_must_not_write_behind_its_memory(patched_programs):
    # Zeros in front of the first barrier, as upstream's kernel writes them with narrow heads; these end in the gap.
    fault = ("for (short i = 0; i < DV4/NL; ++i) {", "for (short i = 0; i < DV4/NL + 64; ++i) {")
    outcome = attention.run(patched_programs, CASES, fault=fault)
    assert "bytes behind its" in outcome.died


#: What stands in the host's code of the series, and what the fault makes of it.
HOST = "ggml/src/ggml-metal/ggml-metal-ops.cpp"
HOST_FAULTS = {
    "no barrier between the kernel and the sum of its parts": (
        "            // sync the 2 kernels\n            ggml_metal_op_concurrency_reset(ctx);\n",
        "            // sync the 2 kernels\n",
    ),
    "threadgroup memory by K's type alone": (
        "(ggml_is_quantized(op->src[1]->type) || ggml_is_quantized(op->src[2]->type)) ? 1 : 0;",
        "ggml_is_quantized(op->src[1]->type) ? 1 : 0;",
    ),
}


@pytest.mark.parametrize("name", HOST_FAULTS)
def test_softmetal_a_fault_in_the_hosts_code_is_noticed(name):
    source, repo = trees.patched(), store.open_store()
    mode, blob = store.entry_at(repo, source.tree, HOST)
    text, (old, new) = store.read_blob(repo, blob).decode(), HOST_FAULTS[name]
    assert text.count(old) == 1
    tree = store.tree_with(repo, source.tree, {HOST: (mode, repo.create_blob(text.replace(old, new).encode()))})
    programs = build.programs(replace(source, tree=tree), lambda line: None)
    outcomes = (attention.run(programs, CASES, reverse=reverse) for reverse in (False, True))
    assert any(not outcome.clean for outcome in outcomes)
