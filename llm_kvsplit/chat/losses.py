"""Whether all of a conversation stands in its prompt.

Templates leave things out without a word: a system text, a tool, a call's arguments, the text before a call. So each
text is replaced by a word that occurs nowhere else, the template is run on those, and the words are looked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .messages import Entry

OFFERED = "the tools that are offered"
SYSTEM = "the system prompt"
ATTACHMENT = "an attachment"
BESIDE = "text beside a tool call"
_CONTENTS = {"user": "a question", "assistant": "an answer", "tool": "the result of a tool call", "system": SYSTEM}


@dataclass
class Probes:
    """A conversation with a word for each text, and what each word stands for."""

    history: list[Entry]
    tools: list[dict[str, Any]]
    #: (what it is, its word, what it is in truth)
    words: list[tuple[str, str, str]]

    def missing(self, prompt: str) -> list[str]:
        """What of the conversation does not stand in the prompt made of the words; each kind once."""
        # Templates may trim a text, or cut a character off, and write it in other letters.
        prompt = prompt.lower()
        return list(dict.fromkeys(kind for kind, word, _ in self.words if word.strip("z") not in prompt))

    def missing_in_truth(self, prompt: str) -> list[str]:
        """The same for the prompt made of the conversation itself, for templates that refuse the words."""

        def stands(value: str) -> bool:
            return any(form in prompt for form in (value.strip(), json.dumps(value.strip())[1:-1], _escaped(value)))

        return list(dict.fromkeys(kind for kind, _, value in self.words if not stands(value)))


def _escaped(value: str) -> str:
    return json.dumps(value.strip(), ensure_ascii=False)[1:-1]


@dataclass
class _Words:
    """Makes words and numbers, and remembers what they stand for."""

    template: str
    words: list[tuple[str, str, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def word(self, kind: str, value: str) -> str:
        if not value.strip():
            return value
        word = f"zzzq{len(self.words)}qzzz"
        self.words.append((kind, word, value))
        return word

    def name(self, kind: str, name: str) -> str:
        # A name that the template knows (python, browser) is treated apart by it.
        known = f"'{name}'" in self.template or f'"{name}"' in self.template
        word = self.names.setdefault(name, name if known else f"zq{len(self.names)}name{len(self.names)}qz")
        self.words.append((kind, word, name))
        return word

    def tool(self, name: str) -> str:
        """Another word than the one of its calls, which stand elsewhere."""
        word = f"zq{len(self.words)}tool{len(self.words)}qz"
        self.words.append((OFFERED, word, name))
        return word

    def value(self, kind: str, value: Any) -> Any:
        """``value`` with every text and number in it replaced."""
        if isinstance(value, str):
            return self.word(kind, value)
        if isinstance(value, dict):
            return {key: self.value(kind, item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(kind, item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool):
            number = 71_300_001 + len(self.words)
            self.words.append((kind, str(number), str(value)))
            return number
        return value


def probes(history: Sequence[Entry], tools: Sequence[dict[str, Any]], template: str) -> Probes:
    words = _Words(template)
    probed = []
    for entry in history:
        entry = dict(entry)
        kind = BESIDE if entry.get("tool_calls") else _CONTENTS.get(entry["role"], f"a message of {entry['role']}")
        entry["content"] = words.word(kind, entry["content"])
        if "tool_calls" in entry:
            entry["tool_calls"] = [_call(call, words) for call in entry["tool_calls"]]
        if entry["role"] == "tool" and entry.get("name"):
            entry["name"] = words.names.get(entry["name"], entry["name"])
        probed.append(entry)
    offered = []
    for tool in tools:
        function = {**tool["function"], "name": words.tool(tool["function"]["name"])}
        offered.append({**tool, "function": function})
    return Probes(probed, offered, words.words)


def _call(call: dict[str, Any], words: _Words) -> dict[str, Any]:
    function = call["function"]
    name = words.name("the name of a tool call", function["name"])
    arguments = words.value("the arguments of a tool call", function["arguments"])
    return {**call, "function": {**function, "name": name, "arguments": arguments}}
