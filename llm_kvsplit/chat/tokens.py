"""A rendered prompt in tokens, such that control tokens are the template's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .marks import Piece, pieces

if TYPE_CHECKING:
    from ..engine.weights import Weights
    from .prompt import Rendered


def tokens(rendered: Rendered, weights: Weights, *, raw: bool = False) -> list[int]:
    """The prompt's tokens, behind the one that a text begins with, for models that want one.

    ``raw``: control tokens in what the template was given are control tokens, too, for those who write whole prompts.
    """
    parts = _parts(rendered.text, rendered, weights, raw)
    whole = [token for part in parts for token in _tokens(part, weights)]
    return [*beginning(rendered, weights, raw=raw), *whole]


def with_media(rendered: Rendered, weights: Weights, *, raw: bool = False) -> list[Piece | int]:
    """The prompt in pieces, and for each attachment, where it stands, its number in the conversation."""
    parts: list[Piece | int] = []
    start = 0
    for at, character in enumerate(rendered.text):
        if character in rendered.media:
            parts += _parts(rendered.text[start:at], rendered, weights, raw, start)
            parts.append(rendered.media.index(character))
            start = at + 1
    return parts + _parts(rendered.text[start:], rendered, weights, raw, start)


def _parts(text: str, rendered: Rendered, weights: Weights, raw: bool, start: int = 0) -> list[Piece]:
    """What stands in ``rendered`` from ``start`` on, in pieces to be split into tokens."""
    marked = rendered.marked[start : start + len(text)]
    if not raw and marked != text:
        whole = weights.tokenize(text, add_special=False, parse_special=True)
        return pieces(text, marked, *_spellings(whole, rendered, weights))
    return [Piece(text, True)] if text else []


def _tokens(piece: Piece, weights: Weights) -> list[int]:
    return weights.tokenize(piece.text, add_special=False, parse_special=piece.special)


def beginning(rendered: Rendered, weights: Weights, *, raw: bool = False) -> list[int]:
    """The token that a text begins with, for models that want one and have it not from the template."""
    prompt = rendered.text if raw else rendered.marked
    # Many templates write the BOS token themselves, some behind white space; two of them harm some models. An EOS token
    # that the header asks for is for texts that end: here the model is to go on. (llama.cpp's server adds both.)
    own = prompt.lstrip().startswith(weights.bos)
    return [weights.bos_id] if weights.bos_id is not None and not (weights.bos and own) else []


def _spellings(whole: Iterable[int], rendered: Rendered, weights: Weights) -> tuple[set[str], set[str]]:
    """The spellings of the control tokens in the prompt, and of others that its template uses as such.

    The second kind (``<think>``, ``<tool_call>`` of many models) is known to the tokenizer as plain text, like the HTML
    tags and line ends that some vocabularies have as tokens, which are left alone.
    """
    control, split = set(), set()
    for token in set(whole):
        kind = weights.kind(token)
        if kind == "text":
            continue
        spelling = weights.piece(token, special=True).decode("utf-8", "replace")
        if kind == "control":
            control.add(spelling)
        elif spelling.strip() and spelling in (rendered.template or ""):
            split.add(spelling)
    return control - {""}, split - {""}
