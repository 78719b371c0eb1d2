"""``llm kvsplit doctor --metal``, on the software device: a Mac runs the same."""

import sys

import pytest
from click.testing import CliRunner

from llm_kvsplit.commands import doctor
from llm_kvsplit.kvtypes import USUAL, CachePair
from softmetal import attention, confirm


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac: run llm kvsplit doctor --metal")
def test_softmetal_without_a_mac_one_sentence_says_so():
    done = CliRunner().invoke(doctor.command, ["--metal"])
    assert done.exit_code == 1
    assert done.output == "Error: This needs a Mac: here, 'kvsplit-patch verify' proves the same on a software Metal.\n"


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_softmetal_the_block_to_paste_says_what_ran():
    cases = attention.mixed("64", (("q8_0", "q4_0"),))
    found = confirm.confirm(
        print, emulated=True, cases=cases, caches=(USUAL[0], CachePair.from_bits(8, 4)), ubatches=(256,)
    )
    block = "\n".join(found.lines)
    assert found.problems == ()
    assert "device: softmetal" in block and "(emulated)" in block and "metal-mixed-kv" in block
    assert "0 differ" in block and "| 256 | K8V4 |" in block and "K8V4, tokens/s at depth 256: prefill" in block
