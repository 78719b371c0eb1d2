"""``llm kvsplit doctor --metal``, on the software device: a Mac runs the same."""

import pytest

from kvsplit_patch.proof.smoke import OTHERS
from llm_kvsplit.kvtypes import USUAL, CachePair
from softmetal import attention, confirm


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_softmetal_the_block_to_paste_says_what_ran():
    cases = attention.mixed("64", (("q8_0", "q4_0"),))
    found = confirm.confirm(
        print, emulated=True, cases=cases, caches=(USUAL[0], CachePair.from_bits(8, 4), *OTHERS), ubatches=(256,)
    )
    block = "\n".join(found.lines)
    assert found.problems == ()
    assert "device: softmetal" in block and "(emulated)" in block and "metal-mixed-kv" in block
    assert all(f"| 256 | {cache} |" in block for cache in ("K8V4", *OTHERS))
    assert "0 differ" in block and "K8V4, tokens/s at depth 256: prefill" in block
