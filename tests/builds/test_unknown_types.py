"""Cache types that cpu-attention has no blocks for: they are upstream's to read, as any type will be that upstream adds."""

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.proof.programs import backend_ops
from kvsplit_patch.series import trees
from tests.support.release import HERE, fetch

CASES = r"hsk=64,hsv=64,nh=4,nr23=\[1,1\],kv=(113|512),nb=(1|35),mask=1,sinks=0,max_bias=0.0.*type_K={0},type_V={0},"


@pytest.mark.build
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("kind", ["bf16", "f32"])
def test_they_are_left_to_upstream(kind):
    """Read as one of ours they would differ from the plain code, or end the program."""
    fetch(HERE)
    tools = artifacts.tools(trees.patched(), cmake.flags(), print)
    outcome = backend_ops.test(tools, "CPU", CASES.format(kind))
    assert outcome.passed and not outcome.failed and not outcome.died
    blocks = (trees.patched().folder / "ggml/src/ggml-cpu/fattn/blocks.h").read_text()
    assert f"GGML_TYPE_{kind.upper()}" not in blocks.replace("GGML_TYPE_F16", "")
