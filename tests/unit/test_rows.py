"""The rows of a stored state."""

import numpy as np
import pytest

from llm_kvsplit.engine import rows
from llm_kvsplit.errors import KvsplitError


def test_turning_twice_is_turning_back():
    floats = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    for width in (64, 128):
        assert np.allclose(rows.rotated(rows.rotated(floats, width), width), floats, atol=1e-6)
    assert rows.rotation(128, keys=True) == 128 and rows.rotation(128, keys=False) == 64
    assert rows.rotation(80, keys=True) == 0


@pytest.mark.parametrize("n", [0, 10, 1000])
def test_a_state_that_is_none_is_refused(n):
    with pytest.raises(KvsplitError, match="leave out --layers"):
        rows.parse(np.zeros(n, np.uint8), 7)
