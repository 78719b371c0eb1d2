"""A prompt in the tokens that stand in a cache already.

A model often writes a word in other tokens than its tokenizer splits it into ("so", "le" for "sole"). The same answer
in the next prompt has the tokenizer's tokens then, and everything from that word on would be evaluated anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .context import common_prefix

if TYPE_CHECKING:
    from .weights import Weights


def begun_with(cached: list[int], tokens: list[int], weights: Weights) -> list[int]:
    """The text of ``tokens``, in ``cached`` and what comes after it; ``tokens`` themselves where it does not begin so.

    All of ``cached`` has to be its beginning: a part of it may end within a word of the prompt, which would then be
    split as no tokenizer splits it.
    """
    same = common_prefix(cached, tokens)
    text, beginning = spell(tokens[same:], weights), spell(cached[same:], weights)
    if not beginning or not text.startswith(beginning):
        return tokens
    try:
        rest = text[len(beginning) :].decode()
    except UnicodeDecodeError:  # the cache ends within a character
        return tokens
    others = weights.tokenize(rest, add_special=False, parse_special=True)
    # Some tokenizers put a space before a text that they are given.
    return [*cached, *others] if spell(others, weights) == rest.encode() else tokens


def spell(tokens: list[int], weights: Weights) -> bytes:
    """The text of ``tokens``, with control tokens written out."""
    return b"".join(weights.piece(token, special=True) for token in tokens)
