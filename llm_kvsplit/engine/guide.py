"""Tokens that a grammar allows: the sampler's choice where it may come, else a choice of those that may.

Reasoning and tool calls come before an answer, and are free. What opens them is a token of the model's own, at the
beginning, or the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .matcher import Matcher
from .sampling import Sampler
from .weights import Weights

#: Tokens of white space between reasoning and the answer, which belong to neither.
_BLANKS = 2


@dataclass(frozen=True)
class Prelude:
    """Something that may come before an answer."""

    opening: str
    #: None where it lasts to the end.
    closing: str | None


class Guide:
    """Chooses the tokens of one answer."""

    def __init__(
        self,
        weights: Weights,
        sampler: Sampler,
        matcher: Matcher,
        preludes: tuple[Prelude, ...],
        opened: Prelude | None,
    ) -> None:
        self._weights, self._sampler, self.matcher = weights, sampler, matcher
        self._preludes = {prelude.opening: prelude for prelude in preludes}
        self._open = opened
        self._text = b""
        self._forced: list[int] = []
        self._blanks = 0
        #: Whether the last token belongs to the answer.
        self.answering = False
        #: Whether it is white space between reasoning and answer.
        self.blank = False

    def sample(self, context: Any) -> int:
        """Raises KvsplitError where no token can come."""
        self.blank = False
        if self._forced:
            return self._in_prelude(self._forced.pop(0))
        if self.answering and self._sampler.remembers:
            # It would take note of a choice that cannot come.
            return self._taken(self._sampler.sample_among(context, self.matcher.allowed()))
        first = self._sampler.sample(context)
        if not self.answering:
            if self._open is not None:
                return self._in_prelude(self._kept_open(first))
            text = self._weights.piece(first, special=True).decode("utf-8", "replace")
            if text.strip() in self._preludes:
                self._open = self._preludes[text.strip()]
                self._text = text.encode()
                return first
            if self._blanks and text.isspace():
                self._blanks -= 1
                self.blank = True
                return first
        self.answering = True
        if not self.matcher.take(first):
            return self._taken(self._sampler.sample_among(context, self.matcher.allowed()))
        return first

    def _taken(self, token: int) -> int:
        self.matcher.take(token)
        return token

    @property
    def ended(self) -> bool:
        return self.answering and self.matcher.ended

    @property
    def cut(self) -> bool:
        """Whether the answer ended before it was whole; a tool call is whole as it is."""
        if self._open is not None:
            return self._open.closing is not None
        return not self.answering or not self.matcher.whole

    def _kept_open(self, token: int) -> int:
        """Reasoning that ends the whole text is closed first, so that the answer can come."""
        assert self._open is not None
        if self._open.closing is None or not self._weights.is_end(token):
            return token
        self._forced = self._weights.tokenize(self._open.closing, add_special=False, parse_special=True)
        return self._forced.pop(0)

    def _in_prelude(self, token: int) -> int:
        assert self._open is not None
        closing = self._open.closing
        if closing is not None:
            self._text += self._weights.piece(token, special=True)
            if closing.encode() in self._text:
                self._open, self._text, self._forced, self._blanks = None, b"", [], _BLANKS
            else:
                self._text = self._text[-2 * len(closing.encode()) :]
        return token
