"""Faults in kernels and in the host's code, planted one at a time: the software Metal notices each."""

import pytest

from softmetal import attention

pytestmark = [pytest.mark.build, pytest.mark.timeout(600)]

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
    outcomes = (attention.run(patched_programs, CASES, fault=FAULTS[name], reverse=reverse) for reverse in (False, True))
    assert any(not outcome.clean for outcome in outcomes)


def test_a_kernel_of_ours_must_not_write_behind_its_memory(patched_programs):
    # One element more than there is, in front of the first barrier, as upstream's kernel does with narrow heads.
    fault = ("for (short i = 0; i < DV4/NL; ++i) {", "for (short i = 0; i < DV4/NL + 2048; ++i) {")
    outcome = attention.run(patched_programs, CASES, fault=fault)
    assert "bytes behind its" in outcome.died
