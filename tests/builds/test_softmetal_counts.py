"""What the software Metal counts: bytes that decoding reads, and attention that the scheduler leaves to the CPU."""

import json
import re

import pytest

from kvsplit_patch.proof.programs import llama_perplexity
from kvsplit_patch.proof.smoke import demo
from softmetal import attention, build
from softmetal.smoke import DEVICES

pytestmark = [pytest.mark.build, pytest.mark.timeout(1200)]

K, V = 2, 3  # the slots of the kernel's buffers


def decode_bytes(programs, key_type, value_type):
    """Distinct bytes of K and V that one decode step of one layer reads, by the kernel."""
    case = f"hsk=64,hsv=64,nh=1,nr23=.8,1.,kv=512,nb=1,mask=0,.*type_K={key_type},type_V={value_type},"
    outcome = attention.run(programs, case, count_loads=True)
    assert outcome.clean
    (counts,) = [found for name, found in outcome.report["kernels"].items() if "flash_attn_ext_vec_" + key_type in name]
    assert counts["dispatches"] == outcome.passed == 1
    return counts["distinct"][K], counts["distinct"][V]


def test_decoding_with_keys_of_8_and_values_of_4_bits_reads_41_percent_of_the_bytes(patched_programs):
    k, v = decode_bytes(patched_programs, "q8_0", "q4_0")
    f16_k = f16_v = 2 * 64 * 512  # 2 bytes a value, head size, rows: eight heads of queries share one of keys
    print(f"K {k:.0f} of {f16_k} bytes, V {v:.0f} of {f16_v}: {(k + v) / (f16_k + f16_v):.1%}")
    assert (k / f16_k, v / f16_v) == (8.5 / 16, 4.5 / 16)
    assert (k + v) / (f16_k + f16_v) == pytest.approx(0.406, abs=0.001)


def test_starting_compiles_no_library_more_than_upstream_does(patched_programs, stock_programs):
    equal, unequal = (
        f"hsk=64,.*kv=512,nb=1,mask=0,sinks=0,.*type_K=q8_0,type_V={value_type}," for value_type in ("q8_0", "q4_0")
    )
    theirs, ours, mixed = (
        attention.run(programs, cases).report
        for programs, cases in ((stock_programs, equal), (patched_programs, equal), (patched_programs, unequal))
    )
    for each in (theirs, ours, mixed):
        print(f"{each['libraries']} libraries of {each['functions']} kernels in {each['source_bytes']} bytes")
    # 3 that iq4_nl needs in front of attention and for a shifted cache, and 14 of q6_0 and q3_nl: see the patches.
    assert (ours["libraries"], ours["functions"]) == (theirs["libraries"], theirs["functions"] + 3 + 14)
    assert ours["source_bytes"] <= 1.02 * theirs["source_bytes"]
    # One pair's decoding is one library of one kernel more.
    assert (mixed["libraries"], mixed["functions"]) == (ours["libraries"] + 1, ours["functions"] + 1)


def splits(programs, key_type, value_type, tmp_path):
    """How many pieces the scheduler cuts a graph into for a token: it cuts where the device changes."""
    model, text = demo()
    command = ["-m", model, "-f", text, "-c", 256, "-b", 256, "-ub", 256, "--chunks", 1, "-fa", "on", *DEVICES["metal"]]
    report = tmp_path / "report.json"
    environment = build.environment(report=report)
    printed = llama_perplexity.output(programs, [*command, "-lv", 4, "-ctk", key_type, "-ctv", value_type], environment)
    kernels = json.loads(report.read_text())["kernels"]
    attended = sum(
        found["dispatches"] for name, found in kernels.items() if re.match("kernel_flash_attn_ext_(vec_)?[fiq]", name)
    )
    return max(map(int, re.findall(r"\bsplits = (\d+)", printed))), attended


#: Keys and values that only the series gives to Metal.
PAIRS = (("q8_0", "q4_0"), ("q8_0", "iq4_nl"), ("iq4_nl", "iq4_nl"), ("q6_0", "q3_nl"))


def test_no_attention_is_left_to_the_cpu(patched_programs, stock_programs, tmp_path):
    usual, attended = splits(stock_programs, "f16", "f16", tmp_path)
    assert attended
    before, none = splits(stock_programs, "q8_0", "q4_0", tmp_path)
    after = [splits(patched_programs, *pair, tmp_path) for pair in PAIRS]
    print(f"splits with f16: {usual}; with q8_0/q4_0 before the patch: {before}, after it: {after}")
    # One for the embedding, which is looked up on the host, and one for everything else; two more a layer without.
    assert (usual, before) == (2, 2 + 2 * 6)
    assert none == 0 and after == [(usual, attended)] * len(PAIRS)


def test_softmetal_four_bits_are_iq4_nl(patched_programs):
    """The library asks Metal whether it takes them, and Metal does (kv-4-bits, metal-iq4-nl)."""
    model, text = demo()
    command = ["-m", model, "-f", text, "-c", 256, "-b", 256, "--chunks", 1, "-lv", 4, *DEVICES["metal"]]
    command += ["--kvq-key", 8, "--kvq-val", 4]
    printed = llama_perplexity.output(patched_programs, command, build.environment())
    assert llama_perplexity.cache_types(printed) == ("q8_0", "iq4_nl")
