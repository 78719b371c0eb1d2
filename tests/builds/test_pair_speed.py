"""The pair that is slow with upstream's library is found out, and the series mends it."""

import pytest

from llm_kvsplit.builds import pair_speed
from llm_kvsplit.builds.shelf import Build
from llm_kvsplit.kvtypes import CachePair

K8V4 = CachePair.from_bits(8, 4)

ASK = ("-m", "kvsplit-demo", "-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "max_tokens", "2")


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_the_unpatched_library_is_found_out_and_the_series_mends_it(no_builds, llm, tmp_path):
    """The same commit with and without the series: what is promised of the default, measured."""
    from kvsplit_patch import build, cmake, trees

    folders = [build.build(tree, cmake.flags(), print) for tree in (trees.unpatched(), trees.patched())]
    speeds = [pair_speed.of(Build("custom", folder), K8V4) for folder in folders]
    assert speeds[0].factor > 2 * speeds[1].factor
