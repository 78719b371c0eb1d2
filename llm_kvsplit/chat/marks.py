"""What in a prompt is the template's, and what came from outside.

A control token in a question, a file or a tool's result is text, and only the template opens roles. So the characters
that control tokens begin and end with are exchanged in everything that a template is given: each for one that nobody
writes. They are characters like others, so they come through trimming, joining, cutting and JSON; in the rendered text
they say which of these characters are not the template's own, and are exchanged back.

A mark wrapped around a token would be lost with the first or last character of a text, and would not tell that two
texts have become a token where the template joined them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

#: What control tokens begin and end with.
_CHARACTERS = "<>[]|"
#: Unicode's last private plane. Fonts use the one before it for icons.
_FIRST, _LAST = 0x100000, 0x10FFFD


@dataclass(frozen=True)
class Marks:
    """Each character and what stands for it; see ``marks_for``."""

    table: dict[str, str]
    #: What stands for each attachment, in the conversation's order.
    media: str = ""

    @property
    def escapes(self) -> dict[int, str]:
        """What HTML has for the characters that marks stand for."""
        return {ord(self.table["<"]): "&lt;", ord(self.table[">"]): "&gt;"}

    def mark(self, value: Any) -> Any:
        """``value`` with the characters of every text in it exchanged."""
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, dict):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mark(item) for item in value]
        return value

    def mark_answer(self, text: str) -> str:
        """As ``mark``, but for reasoning that an answer begins with, which templates look for and leave out."""
        head = re.match(r"\s*<think>(.*?)</think>", text, re.DOTALL)
        if head is None:
            return self._mark_text(text)
        opening = head[0].index("<think>") + len("<think>")
        return head[0][:opening] + self._mark_text(head[1]) + "</think>" + self._mark_text(text[head.end() :])

    def _mark_text(self, text: str) -> str:
        return text.translate({ord(plain): other for plain, other in self.table.items()})

    def marked(self, rendered: str) -> str:
        """``rendered`` with marks that the template has escaped (as ASCII JSON, as Python does) put right."""
        for other in (*self.table.values(), *self.media):
            for escape in _escapes(other):
                if escape in rendered:
                    rendered = rendered.replace(escape, other)
        return rendered

    def plain(self, marked: str) -> str:
        """The text itself, a character for each character of ``marked``."""
        return marked.translate({ord(other): plain for plain, other in self.table.items()})


def _escapes(character: str) -> tuple[str, str]:
    """How Python writes a character that cannot be printed, and ASCII JSON one beyond the first plane."""
    offset = ord(character) - 0x10000
    return f"\\U{ord(character):08x}", f"\\u{0xD800 + (offset >> 10):04x}\\u{0xDC00 + (offset & 0x3FF):04x}"


def marks_for(texts: Iterable[str], n_media: int = 0) -> Marks:
    """Marks that occur in none of ``texts``, written out or escaped, and one more for each of ``n_media`` attachments."""
    texts = list(texts)
    used = {character for text in texts for character in text if ord(character) >= _FIRST}

    def free(character: str) -> bool:
        return character not in used and not any(escape in text for escape in _escapes(character) for text in texts)

    marks = filter(free, map(chr, range(_LAST, _FIRST, -1)))
    table = dict(zip(_CHARACTERS, marks))
    return Marks(table, "".join(islice(marks, n_media)))


def texts_of(value: Any) -> Iterator[str]:
    """Every text in ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_of(key)
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)


@dataclass(frozen=True)
class Piece:
    """A part of a prompt, to be split into tokens by itself."""

    text: str
    #: Whether control tokens in it are meant.
    special: bool


def pieces(text: str, marked: str, control: Iterable[str], split: Iterable[str] = ()) -> list[Piece]:
    """The prompt in pieces such that no control token comes out of what the template did not write itself.

    ``marked`` is ``text`` with marks. ``control``: the spellings of control tokens. ``split``: those of tokens that a
    tokenizer makes of plain text as well, so that a piece has to end within them.
    """
    control, split = set(control), set(split)
    spellings = sorted(control | split, key=len, reverse=True)
    token = re.compile("|".join(map(re.escape, spellings)) or "(?!)")
    own: list[tuple[int, int]] = []
    cuts: list[int] = []
    forged: list[int] = []
    at = 0
    while (match := token.search(text, at)) is not None:
        start, end = match.span()
        if marked[start:end] == match[0]:
            if match[0] in control:
                own.append((start, end))
            at = end
        else:
            (forged if match[0] in control else cuts).append(start)
            at = start + 1
    return _pieces(text, own, forged, cuts)


def _pieces(text: str, own: list[tuple[int, int]], forged: list[int], cuts: list[int]) -> list[Piece]:
    result: list[Piece] = []
    begin = 0
    for start, end in [*own, (len(text), len(text))]:
        places = [cut + 1 for cut in cuts if begin <= cut < start]
        harmless = not places and not any(begin <= place < start for place in forged)
        edges = [begin, *places, start]
        for low, high in pairwise(edges):
            result.append(Piece(text[low:high], harmless))
        result.append(Piece(text[start:end], True))
        begin = end
    return _joined(result)


def _joined(parts: Iterable[Piece]) -> list[Piece]:
    """Neighbours that mean control tokens in one, so that a tokenizer sees as much as it can; no empty ones."""
    result: list[Piece] = []
    for part in parts:
        if not part.text:
            continue
        if result and result[-1].special and part.special:
            result[-1] = Piece(result[-1].text + part.text, True)
        else:
            result.append(part)
    return result
