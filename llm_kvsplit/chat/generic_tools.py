"""Tools for a model whose template has no place for them: described in words, and called in one form.

The system text describes the tools. An answer is text or calls, and the grammar holds a call to the tool's schema:
``<tool_call>{"name": "NAME", "arguments": {…}}</tool_call>``. Nothing else begins with that mark, so arguments are
given out while they are written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import schemas
from ..engine.generate import held_back
from ..errors import KvsplitError
from ..grammar import Grammar, read
from . import messages
from .calls import Call
from .reply import Text

if TYPE_CHECKING:
    from llm import Tool
    from llm.parts import Message

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
#: What stands between the arguments of a call and the next call.
_BEHIND = f"}}{_CLOSING}"
#: Keywords that say which properties there may be; without any of them, those that are named are all.
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf")


@dataclass(frozen=True)
class CallBegun:
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the arguments, as JSON."""

    text: str


@dataclass(frozen=True)
class CallEnded:
    call: Call


Event = Text | CallBegun | CallArguments | CallEnded


def _head(name: str) -> str:
    """What a call begins with, up to its arguments."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


# What the model is told.


def written_out(conversation: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """``conversation`` with tools, calls and results as text, for a template that knows none of them."""
    turns: list[Message] = []
    for message in conversation:
        turn = _without_tools(message)
        if (
            turns
            and turn.role == turns[-1].role == "user"
            and any(_parts(each, "ToolResultPart") for each in conversation)
        ):
            turns[-1] = _joined(turns[-1], turn)  # many templates want turns to alternate
        else:
            turns.append(turn)
    if not tools:
        return turns
    told = _message("system", _description(tools))
    if turns and turns[0].role == "system":
        return [_joined(turns[0], told), *turns[1:]]
    return [told, *turns]


def _parts(message: Message, kind: str) -> list[Any]:
    return [part for part in message.parts if messages.is_a(part, kind)]


def _message(role: str, text: str) -> Message:
    from llm.parts import Message, TextPart

    return Message(role=role, parts=[TextPart(text=text)])


def _joined(first: Message, second: Message) -> Message:
    from llm.parts import TextPart

    return type(first)(role=first.role, parts=[*first.parts, TextPart(text="\n\n"), *second.parts])


def _without_tools(message: Message) -> Message:
    calls = [_written(part) for part in _parts(message, "ToolCallPart")]
    results = [f"Result of {part.name}:\n{part.exception or part.output}" for part in _parts(message, "ToolResultPart")]
    if not calls and not results:
        return message
    text = "\n".join(filter(None, [*results, messages.text(message, iter(())), *calls]))
    from llm.parts import AttachmentPart

    shown = [AttachmentPart(attachment=each) for each in messages.attachments([message])]
    others = [*_parts(message, "ReasoningPart"), *shown]
    told = _message("user" if message.role == "tool" else message.role, text)
    return type(told)(role=told.role, parts=[*others, *told.parts])


def _written(call: Any) -> str:
    """A call as the model writes it."""
    if list(call.arguments) == ["_raw"]:  # llm's word for arguments that were cut short
        return f"{_OPENING}{_head(call.name)}{call.arguments['_raw']}"
    return f"{_OPENING}{_head(call.name)}{json.dumps(call.arguments, ensure_ascii=False)}{_BEHIND}"


def _description(tools: Sequence[Tool]) -> str:
    lines = (json.dumps(messages.described(tool)["function"], ensure_ascii=False) for tool in tools)
    form = f'{_OPENING}{{"name": "function_name", "arguments": {{"argument1": "value1", "argument2": "value2"}}}}{_CLOSING}'
    return "\n".join(
        (
            "You are given a question and functions. To answer, you may need to call one or more of the functions. These "
            "are the functions that you have:",
            "<tools>",
            *lines,
            "</tools>",
            "",
            "A call must strictly have the following form, one call on a line, and no other text may be written with it:",
            form,
            "",
            "The results come back to you. If none of the functions can be used, answer in words.",
        )
    )


# What the model may write.


def grammar(tools: Sequence[Tool], answer: Grammar | None) -> Grammar:
    """Text, or calls of ``tools``; with ``answer``, calls or such an answer.

    Raises KvsplitError that names the tool whose schema cannot be enforced.
    """
    forms = [arguments_grammar(tool) for tool in tools]
    calls = " | ".join(f"{json.dumps(_head(tool.name))} @tool{n}" for n, tool in enumerate(tools))
    lines = [
        "%llguidance {}",
        f"start: {'@answer' if answer else 'TEXT'} | opening call (next call)*",
        "TEXT: /(.|\\n)*/",
        f"opening{'' if answer else '[lazy]'}: {'' if answer else 'TEXT '}{json.dumps(_OPENING)}",
        f'next: "\\n"? {json.dumps(_OPENING)}',
        f"call: ({calls}) {json.dumps(_BEHIND)}",
    ]
    parts: list[dict[str, Any]] = [{"lark_grammar": "\n".join(lines)}]
    parts += [{**_first(form), "name": f"tool{n}"} for n, form in enumerate(forms)]
    if answer:
        parts.append({**_first(answer), "name": "answer"})
    made = Grammar(
        json.dumps({"grammars": parts}),
        f"the schemas of the tools{f' and {answer.name}' if answer else ''}",
        answer.schema if answer else None,
        answer.approximated if answer else (),
        answer.unchecked_formats if answer else (),
    )
    if error := read(made).error:
        raise KvsplitError(f"Calls of these tools cannot be held to a form: {error}.")
    return made


def arguments_grammar(tool: Tool) -> Grammar:
    """The arguments that a tool takes. Raises KvsplitError that names the tool."""
    schema: Any = {"type": "object", **(tool.input_schema or {})}
    if not any(keyword in schema for keyword in _OPEN):
        schema["additionalProperties"] = False  # a function refuses what it does not know
    try:
        return schemas.grammar(schema, one_line=True)
    except KvsplitError as ex:
        raise KvsplitError(str(ex).replace("The schema", f"The schema of the tool {tool.name}", 1)) from ex


def _first(form: Grammar) -> dict[str, Any]:
    """The grammar as one of several."""
    if form.text.startswith("{"):
        (only,) = json.loads(form.text)["grammars"]
        return only
    return {"lark_grammar": form.text}


# What the model wrote.


class Reader:
    """Feed it an answer that follows the grammar, as it comes."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._names = {_head(name): name for name in self._tools}
        self._held = ""
        #: Whether the head of a call is being read; then the call's name, and its arguments.
        self._opened, self._name = False, ""
        self._arguments = _Json()
        #: What may be left out if it comes next, and whether nothing is shown yet.
        self._needless, self._fresh = "", True
        #: Whether a call was begun.
        self.called = False

    def feed(self, text: str) -> Iterator[Event]:
        self._held += text
        while self._held and (step := self._step(final=False)) is not None:
            yield from step

    def finish(self) -> Iterator[Event]:
        """The answer has ended, within a call perhaps, whose arguments then stay as far as they came."""
        while self._held and (step := self._step(final=True)) is not None:
            yield from step

    def _step(self, final: bool) -> list[Event] | None:
        """Consume a part of what is held and return what it is; None when more text is needed."""
        if self._name:
            return self._read_arguments(self._name)
        if self._needless and (step := self._leave_out(final)) != []:
            return step
        return self._read_head(final) if self._opened else self._read_text(final)

    def _leave_out(self, final: bool) -> list[Event] | None:
        if len(self._held) < len(self._needless) and self._needless.startswith(self._held):
            if final:
                self._held = ""
            return None
        self._held, self._needless = self._held.removeprefix(self._needless), ""
        return [] if self._held else None

    def _read_text(self, final: bool) -> list[Event] | None:
        if (at := self._held.find(_OPENING)) >= 0:
            text, self._held, self._opened = self._held[:at], self._held[at + len(_OPENING) :], True
        else:
            end = len(self._held) - (0 if final else held_back(self._held, (_OPENING,)))
            text, self._held = self._held[:end], self._held[end:]
        if self._fresh:
            text = text.lstrip()
        if text:
            self._fresh = False
            return [Text(text)]
        return [] if self._opened else None

    def _read_head(self, final: bool) -> list[Event] | None:
        head = next((head for head in self._names if self._held.startswith(head)), None)
        if head is None:
            if not final and any(head.startswith(self._held) for head in self._names):
                return None
            self._opened = False  # cut before its name was out
            return [Text(_OPENING)]
        self._held, self._opened, self._name = self._held[len(head) :], False, self._names[head]
        self._arguments, self.called = _Json(), True
        return [CallBegun(self._name)]

    def _read_arguments(self, name: str) -> list[Event]:
        end = self._arguments.take(self._held)
        pieces: list[Event] = [CallArguments(self._held[:end])]
        self._held = self._held[end:]
        if not self._arguments.whole:
            return pieces
        self._name, self._needless, self._fresh = "", _BEHIND, True
        try:
            arguments = json.loads(self._arguments.text)
        except (ValueError, RecursionError) as ex:
            raise KvsplitError(f"The model's call of {name} cannot be read: {ex}.") from ex
        _check(self._tools[name], self._arguments.text)
        return [*pieces, CallEnded(Call(name, arguments))]


def _check(tool: Tool, arguments: str) -> None:
    """Raises KvsplitError where the grammar only came near to the schema, and the arguments do not follow it."""
    if "oneOf" not in json.dumps(tool.input_schema):  # nothing else is only come near to
        return
    form = arguments_grammar(tool)
    if form.approximated and (fault := schemas.fault(form.schema, arguments)):
        keywords = " and ".join(form.approximated)
        raise KvsplitError(
            f"The model's call of {tool.name} does not follow the tool's schema, whose {keywords} was taken for anyOf: "
            f"{fault}."
        )


class _Json:
    """An object in JSON as it comes."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._depth, self._quoted, self._escaped = 0, False, False
        self.whole = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, piece: str) -> int:
        """Characters of ``piece`` that belong to it."""
        end = next((at for at, character in enumerate(piece, 1) if self._closes(character)), len(piece))
        self._pieces.append(piece[:end])
        return end

    def _closes(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped, self._quoted = character == "\\", character != '"'
        elif character == '"':
            self._quoted = True
        elif character in "{}[]":
            self._depth += 1 if character in "{[" else -1
            self.whole = self._depth <= 0
        return self.whole
