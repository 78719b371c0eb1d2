"""How long a context is made, what two prompts have in common, and what of an answer is held back."""

import pytest

from llm_kvsplit.engine.context import common_prefix
from llm_kvsplit.engine.generate import context_size, held_back


def test_context_size():
    assert context_size(10, 100, 2048) == 256
    assert context_size(10, None, 2048) == 768  # room for an answer of ordinary length
    assert context_size(2000, None, 2048) == 2048
    assert context_size(250, 6, 131072) == 256


@pytest.mark.parametrize(
    ("a", "b", "n"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 9, 3], 1), ([5], [6], 0)]
)
def test_common_prefix(a, b, n):
    assert common_prefix(a, b) == n


@pytest.mark.parametrize(("text", "n"), [("abc", 0), ("abc</", 2), ("abc</th", 4), ("<", 1), ("</think>", 0)])
def test_held_back(text, n):
    assert held_back(text, ("</think>", "</stop>")) == n
