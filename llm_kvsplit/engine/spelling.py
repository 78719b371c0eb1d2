"""A prompt in the tokens that stand in a cache already.

A model often writes a word in other tokens than its tokenizer splits it into ("so", "le" for "sole"). The same answer
in the next prompt has the tokenizer's tokens then, and everything from that word on would be evaluated anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .context import MEDIA, common_prefix

if TYPE_CHECKING:
    from .weights import Weights


#: No text has these bytes, so a control token between them is told from text that is spelled like it.
_BEFORE, _AFTER = b"\xfe", b"\xff"


def begun_with(cached: list[int], tokens: list[int], weights: Weights) -> list[int]:
    """The text of ``tokens``, in ``cached`` and what comes after it; ``tokens`` themselves where it does not begin so.

    All of ``cached`` has to be its beginning: a part of it may end within a word of the prompt, which would then be
    split as no tokenizer splits it. Control tokens are the same only as tokens.
    """
    same = common_prefix(cached, tokens)
    beginning = spell(cached[same:], weights)
    if not beginning:
        return tokens
    rest = _behind(beginning, tokens[same:], weights)
    if rest is None:
        return tokens
    spelled, others = rest
    try:
        text = spelled.decode()
    except UnicodeDecodeError:  # the cache ends within a character
        return tokens
    anew = weights.tokenize(text, add_special=False, parse_special=False)
    # Some tokenizers put a space before a text that they are given, and some tokens were kept apart in the prompt.
    whole = {token for token in anew if weights.kind(token) == "whole"}
    return [*cached, *anew, *others] if spell(anew, weights) == spelled and whole <= set(tokens) else tokens


def _behind(beginning: bytes, tokens: list[int], weights: Weights) -> tuple[bytes, list[int]] | None:
    """What follows ``beginning`` in ``tokens``: the text up to the next control token, and the tokens from there on.

    None where they do not begin so.
    """
    spelled = b""
    for index, token in enumerate(tokens):
        own = spell([token], weights)
        if len(spelled) >= len(beginning) and own.startswith(_BEFORE):
            return spelled[len(beginning) :], tokens[index:]
        spelled += own
        shorter = min(len(spelled), len(beginning))
        if spelled[:shorter] != beginning[:shorter]:
            return None
    return (spelled[len(beginning) :], []) if len(spelled) >= len(beginning) else None


def spell(tokens: list[int], weights: Weights) -> bytes:
    """The text of ``tokens``, each control token written out between bytes that no text has."""
    return b"".join(_spelled(token, weights) for token in tokens)


def _spelled(token: int, weights: Weights) -> bytes:
    if token >= MEDIA:  # the same only as a number, as a control token is
        return b"%b%d%b" % (_BEFORE, token, _AFTER)
    spelling = weights.piece(token, special=True)
    if spelling and weights.kind(token) == "control":
        return _BEFORE + spelling + _AFTER
    return spelling
