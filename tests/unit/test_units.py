"""Sizes as a person reads and writes them."""

import pytest

from llm_kvsplit import units
from llm_kvsplit.errors import KvsplitError


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (93.5 * 2**20, "93.50 MiB"), (2**40, "1.00 TiB")]
)
def test_sizes_are_shown(n, text):
    assert units.size(n) == text


@pytest.mark.parametrize(
    ("text", "n"), [("10GB", 10**10), ("1.5 GiB", 3 * 2**29), ("7", 7), ("2k", 2000), ("500MiB", 500 * 2**20)]
)
def test_sizes(text, n):
    assert units.parse_size(text) == n


@pytest.mark.parametrize("text", ["", "ten", "-1GB", "1XB", "1..2GB"])
def test_what_is_no_size(text):
    with pytest.raises(KvsplitError, match="10GB"):
        units.parse_size(text)
