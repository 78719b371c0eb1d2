"""The model's text -> answer, reasoning and tool calls, as it streams.

Text comes in pieces that end anywhere, and all of it goes out again: as the answer, as reasoning, or as a call. Only
markers are taken away. What looks like a call but is none, or is one of a tool that nobody offered, stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..engine.generate import held_back
from . import calls
from .calls import KEPT, UNUSUAL, WITHIN, WRAPPERS, Call, Tools
from .reasoning import Marker

__all__ = ["Call", "Form", "ReplyParser", "Text"]


@dataclass(frozen=True)
class Text:
    text: str
    reasoning: bool = False


#: Where a closing marker may stand within a call, that many are tried.
_CLOSINGS = 16
#: After so many calls that are none, the rest of the answer is text.
_FAILURES = 64
#: Longest head of a part, in characters.
_HEAD = 400
#: Control tokens of gpt-oss, which says of each part of an answer what it is: ``<|channel|>final<|message|>…<|end|>``.
#: Muse says to whom: `` to=user<|message|>…<|eom|>``.
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_TURN, _ENDS = ("<|start|>", _CHANNEL), ("<|end|>", "<|call|>", "<|return|>", "<|eom|>")
#: Markers of the answer proper, which end any reasoning.
_ANSWER = ("<|START_RESPONSE|>", "<|START_TEXT|>", "<|content|>", "<|open|>response<|sep|>")
#: Markers around parts of an answer that mean nothing to a person.
_DROPPED = (
    *_ANSWER,
    "[END FINAL RESPONSE]",
    "<|END_RESPONSE|>",
    "<|END_TEXT|>",
    "<|begin|>assistant",
    "<tool_calls:opensource>",
    "</tool_calls:opensource>",
    "<|message_sep|>",
    "<|close|>response<|sep|>",
    "<|close|>message<|sep|>",
    "<|channel>thought\n<channel|>",
    "<channel|>",
)


@dataclass(frozen=True)
class Form:
    """How one model's answers are written."""

    #: What encloses calls.
    wrappers: dict[str, str | None] = field(default_factory=dict)
    reasoning: tuple[Marker, ...] = ()
    dropped: tuple[str, ...] = ()
    #: Whether each part of an answer has a head that says what it is (gpt-oss).
    channels: bool = False

    @property
    def visible(self) -> frozenset[str]:
        """Control tokens that the parser has to see."""
        markers = {*self.wrappers, *(end for end in self.wrappers.values() if end), *self.dropped}
        markers |= set(WITHIN) if self.wrappers else set()
        markers |= {text for marker in self.reasoning for text in (marker.opening, marker.closing)}
        if self.channels:
            markers |= {*_TURN, *_ENDS, _MESSAGE, "<|constrain|>"}
        # A marker may be several tokens, some of them control tokens.
        parts = {
            part for marker in markers for part in re.findall(r"<\|?[^<>|]*\|?>|<｜[^<>｜]*｜>|\[/?[A-Z_]+\]", marker)
        }
        return frozenset(markers | parts)


def form(template: str | None, reasoning: Sequence[Marker] = ()) -> Form:
    """How answers to ``template`` are written; ``reasoning``: the model's own markers."""
    template = template or ""
    wrappers = dict(WRAPPERS) | {opening: end for opening, end in UNUSUAL.items() if _head(opening) in template}
    channels = _TURN[0] in template and _MESSAGE in template
    dropped = tuple(marker for marker in _DROPPED if marker in template or _head(marker) in template)
    return Form(wrappers, tuple(reasoning), dropped, channels)


def _head(marker: str) -> str:
    # Line ends within a template's strings are written as escapes, and roles are variables.
    return re.split(r"\n|\[$|<\|role_sep\|>|(?<=<\|begin\|>)|(?<=<\|open\|>)|(?<=<\|close\|>)", marker)[0]


class ReplyParser:
    """Feed it text as it comes; markers may fall across pieces."""

    def __init__(
        self, tools: Tools | None = None, how: Form | None = None, *, reasoning: Marker | None = None, prompt: str = ""
    ) -> None:
        """``tools``: those that were offered. ``reasoning``: what the prompt has opened. ``prompt``: its end."""
        self._tools = tools or {}
        self._form = how or form(None)
        self._openings = tuple(self._form.wrappers) if self._tools else ()
        self._held = ""
        self._reasoning = reasoning
        #: Whether the answer has not begun, so that reasoning may open.
        self._at_start = reasoning is None
        #: Whether a call without a wrapper may begin here.
        self._bare = bool(self._tools)
        #: Whether nothing is shown yet of the present part: white space there belongs to the markup.
        self._fresh = True
        #: What opened the call that is being read, how many ends of it were tried, and how many calls were none.
        self._wrapper: str | None = None
        self._tried = self._failures = 0
        #: A marker that means nothing if it comes next.
        self._needless = reasoning.opening.rstrip("\n") if reasoning else ""
        #: Whether the head of a part is being read, and the tool that it named.
        self._head = self._form.channels and reasoning is None
        self._recipient: str | None = None
        if prompt.endswith(">>>") and ">>>" in self._form.wrappers:
            # Functionary's prompt has begun the name of a tool, or that of all.
            self._held, self._openings = ">>>", self._openings or (">>>",)

    def feed(self, text: str) -> Iterator[Text | Call]:
        self._held += text
        yield from self._run(final=False)

    def finish(self) -> Iterator[Text | Call]:
        """The reply has ended: give out what was held back."""
        yield from self._run(final=True)

    def _run(self, *, final: bool) -> Iterator[Text | Call]:
        while self._held and (step := self._step(final)) is not None:
            yield from step

    def _step(self, final: bool) -> list[Text | Call] | None:
        """Consume a part of what is held and return what it is; None when more text is needed."""
        if self._needless and (step := self._leave_out(final)) != []:
            return step
        if self._head:
            return self._read_head(final)
        if self._recipient is not None:
            return self._read_sent(self._recipient, final)
        if self._wrapper is not None:
            return self._read_wrapped(self._wrapper, final)
        if self._reasoning is None and (self._at_start or self._bare):
            return self._read_start(final)
        return self._read_on(final)

    def _leave_out(self, final: bool) -> list[Text | Call] | None:
        begun = self._held.lstrip()
        if not final and begun != self._needless and self._needless.startswith(begun):
            return None
        if begun.startswith(self._needless):
            self._held = begun[len(self._needless) :]
        self._needless = ""
        return [] if self._held else None

    # The beginning of an answer: reasoning, or a call without a wrapper.

    def _read_start(self, final: bool) -> list[Text | Call] | None:
        begun = self._held.lstrip()
        if not final and (not begun or self._may_open(begun)):
            return None
        if self._at_start:
            for marker in self._form.reasoning:
                if begun.startswith(marker.closing):
                    self._held, self._at_start = begun[len(marker.closing) :], False
                    return []
                opening = marker.opening.rstrip("\n")
                if begun.startswith(opening):
                    self._reasoning, self._held = marker, begun[len(opening) :]
                    self._at_start = False
                    return []
        if self._bare and calls.may_begin(begun, self._tools):
            if not final:
                return None
            if items := calls.read(begun, self._tools):
                self._held = ""
                return self._given(items)
        self._at_start = self._bare = False
        return []

    def _may_open(self, begun: str) -> bool:
        """Whether a marker may yet come of the little that has come."""
        openings = [*self._openings, *self._form.dropped]
        if self._at_start:
            openings += [text for marker in self._form.reasoning for text in (marker.opening, marker.closing)]
        return any(opening != begun and opening.startswith(begun) for opening in openings)

    # Text, up to the next marker.

    def _read_on(self, final: bool) -> list[Text | Call] | None:
        markers = self._form.dropped
        if self._form.channels:
            markers += (*_TURN, *_ENDS, _MESSAGE)
        # A call in reasoning is a thought, unless the reasoning does not end.
        if self._reasoning is None or self._reasoning.closing not in self._held:
            markers += self._openings
        if self._reasoning is not None:
            markers += (self._reasoning.closing,)
        places = [(at, -len(marker), marker) for marker in markers if (at := self._held.find(marker)) >= 0]
        if not places:
            end = len(self._held) - (0 if final else held_back(self._held, markers))
            return self._show_up_to(end)
        at, _, marker = min(places)
        if self._reasoning is not None and marker in self._openings and not final:
            return self._show_up_to(at)
        shown, self._held = self._held[:at], self._held[at + len(marker) :]
        events = self._show(shown)
        self._meet(marker)
        return events

    def _show_up_to(self, end: int) -> list[Text | Call] | None:
        shown, self._held = self._held[:end], self._held[end:]
        return self._show(shown) if shown else None

    def _meet(self, marker: str) -> None:
        if marker in self._openings:
            self._wrapper, self._tried = marker, 0
            return
        self._fresh = True
        if self._reasoning is not None and marker == self._reasoning.closing:
            self._reasoning = None
            self._bare = bool(self._tools)
        elif marker in _TURN:
            self._reasoning, self._head = None, True
            self._held = marker + self._held
        elif marker in (*_ENDS, *_ANSWER):
            self._reasoning = None

    def _show(self, text: str) -> list[Text | Call]:
        if self._fresh and (self._reasoning or self._form.reasoning or self._tools or self._form.channels):
            text = text.lstrip()
        if not text:
            return []
        self._fresh = False
        return [Text(text, self._reasoning is not None)]

    def _given(self, items: calls.Items) -> list[Text | Call]:
        if self._reasoning is not None:  # some models call without closing their reasoning
            self._reasoning, self._fresh = None, True
        events: list[Text | Call] = []
        for item in items:
            if isinstance(item, Call):
                self._fresh = True
                events.append(item)
            else:
                events += self._show(item)
        return events

    # Calls.

    def _read_wrapped(self, opening: str, final: bool) -> list[Text | Call] | None:
        closing = self._form.wrappers[opening]
        ends = self._held.count(closing or opening)
        if not final and ends == self._tried:
            return None
        self._tried = ends
        for end, after in self._ends(opening, closing, final):
            text = self._held[:end]
            if opening == ">>>" and re.match(r"\s*all\n", text):  # Functionary's answer to all is the text
                self._wrapper, self._held, self._fresh = None, self._held[after:], True
                return self._show(text.lstrip().removeprefix("all\n"))
            if opening in KEPT:
                text = f"{opening.removeprefix('functools')}{text}{closing or ''}"
            read = calls.read_code if opening == "<|python_tag|>" else calls.read
            if items := read(text, self._tools):
                self._wrapper, self._held = None, self._held[after:]
                if opening == "<function=":  # some models leave out what opens the wrapper around it
                    self._needless = "</tool_call>"
                return self._given(items)
        if not final and ends < _CLOSINGS:
            return None
        self._wrapper = None
        self._failures += 1
        if self._failures >= _FAILURES:
            self._openings = ()
        return self._show(opening)

    def _ends(self, opening: str, closing: str | None, final: bool) -> Iterator[tuple[int, int]]:
        """Where the call's text may end, and where what follows it begins."""
        at = -1
        for _ in range(_CLOSINGS):
            if (at := self._held.find(closing or opening, at + 1)) < 0:
                break
            yield at, at + len(closing or "")
        if final:
            yield len(self._held), len(self._held)

    # Parts with heads (gpt-oss).

    def _read_head(self, final: bool) -> list[Text | Call] | None:
        head, message, rest = self._held.partition(_MESSAGE)
        begun = self._held.lstrip()
        likely = len(head) < _HEAD and any(begun.startswith(start[: len(begun)]) for start in (*_TURN, "to="))
        if likely and not message and not final:
            return None
        self._head, self._fresh = False, True
        if not likely or not message:
            marker = next((marker for marker in _TURN if begun.startswith(marker)), "")
            self._held = begun[len(marker) :] if marker else self._held
            return self._show(marker)
        self._held, self._at_start = rest, False
        to = re.search(r"to=([^\s<]+)", head)
        channels = re.findall(r"<\|channel\|>\s*(\w+)", head)
        if to is not None and to[1] not in ("user", "all", "assistant"):
            self._recipient = to[1]
        elif channels and channels[-1] == "analysis":
            self._reasoning = Marker(head + message, _ENDS[0])
        return []

    def _read_sent(self, recipient: str, final: bool) -> list[Text | Call] | None:
        """What is sent to a tool."""
        ends = [at for marker in (*_ENDS, *_TURN) if (at := self._held.find(marker)) >= 0]
        if not ends and not final:
            return None
        end = min(ends, default=len(self._held))
        text, self._held, self._recipient = self._held[:end], self._held[end:], None
        items = calls.read(text, self._tools) or calls.read(f"{recipient}{text.strip() or '{}'}", self._tools)
        return self._given(items) if items else self._show(text)
