"""Bits and cache types."""

import pytest

from llm_kvsplit.kvtypes import from_bits


def test_unknown_bits_name_the_known_ones():
    with pytest.raises(ValueError, match="16, 8, 5, 4, not 7"):
        from_bits(7)
