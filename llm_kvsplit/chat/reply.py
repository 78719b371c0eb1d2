"""The model's text -> answer, reasoning and tool calls, as it streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..engine.generate import held_back

_THINK, _THINK_END = "<think>", "</think>"
#: How models open a tool call, and what closes it (None: the end of the reply). Qwen and Hermes, Mistral, Llama 3.
_CALLS: dict[str, str | None] = {"<tool_call>": "</tool_call>", "[TOOL_CALLS]": None, "<|python_tag|>": None}

#: Control tokens that must reach the parser as text.
MARKERS = frozenset({_THINK, _THINK_END, "[ARGS]", *_CALLS, *filter(None, _CALLS.values())})


@dataclass(frozen=True)
class Text:
    text: str
    reasoning: bool = False


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


class ReplyParser:
    """Feed it text as it comes; markers may fall across pieces. What looks like a tool call but is none stays text."""

    def __init__(self, *, tools: bool, reasoning_open: bool = False) -> None:
        self._tools = tools
        self._reasoning = reasoning_open
        self._call: str | None = None  # the marker that opened the call being read
        self._held = ""
        self._fresh = True  # nothing shown yet in the present part: leading white space belongs to the markup

    def feed(self, text: str) -> Iterator[Text | Call]:
        self._held += text
        while (step := self._step()) is not None:
            yield from step

    def finish(self) -> Iterator[Text | Call]:
        """The reply has ended: give out what was held back."""
        if self._call is not None:
            yield from self._calls(self._held)
        elif self._held:
            yield from self._show(self._held)
        self._held = ""

    def _step(self) -> list[Text | Call] | None:
        """Consume up to the next marker and return what came before it; None when more text is needed."""
        if self._call is not None:
            end = _CALLS.get(self._call)
            if end is None or end not in self._held:
                return None
            body, self._held = self._held.split(end, 1)
            return self._calls(body, closing=end)
        if self._tools and self._fresh and not self._reasoning and self._held.lstrip().startswith("{"):
            self._call = ""  # Llama 3 writes the call as the whole reply, with no marker
            return []
        markers = (_THINK_END,) if self._reasoning else (_THINK, *(_CALLS if self._tools else ()))
        found = [(at, marker) for marker in markers if (at := self._held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            shown, self._held = self._held[:at], self._held[at + len(marker) :]
            events = self._show(shown)
            self._fresh = True
            if marker in _CALLS:
                self._call = marker
            else:
                self._reasoning = marker == _THINK
            return events
        keep = held_back(self._held, markers)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if shown:
            return self._show(shown)
        return None

    def _show(self, text: str) -> list[Text | Call]:
        if self._fresh and (self._reasoning or self._tools):
            text = text.lstrip()
        if not text:
            return []
        self._fresh = False
        return [Text(text, self._reasoning)]

    def _calls(self, body: str, closing: str = "") -> list[Text | Call]:
        marker, self._call = self._call or "", None
        calls = parse_calls(body)
        self._fresh = bool(calls)
        return list(calls) or [Text(marker + body + closing)]


def parse_calls(body: str) -> list[Call]:
    """Tool calls in the forms models write them; none when it is something else."""
    body = body.strip()
    name, brace, rest = body.partition("{")
    if name and not name.startswith("["):
        # Mistral: name[ARGS]{…} or name{…}
        name = name.replace("[ARGS]", "").strip()
        arguments = _json(brace + rest)
        return [Call(name, arguments)] if name.isidentifier() and isinstance(arguments, dict) else []
    value = _json(body)
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if all(calls) else []


def _call(item: Any) -> Call | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    return Call(item["name"], arguments) if isinstance(arguments, dict) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
