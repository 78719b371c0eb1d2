"""llm's messages as the dictionaries that chat templates read (Hugging Face's convention), in every shape they want."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm import Tool
    from llm.parts import Message

Entry = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What a template may want otherwise. The first shape is the one that most want."""

    #: Contents are lists of typed parts.
    typed: bool = False
    #: The arguments of a call are JSON text.
    arguments_as_text: bool = False
    #: Each call is a turn of its own, followed by its result.
    one_call_a_turn: bool = False
    #: The ids of calls have nine letters and digits (Mistral).
    short_ids: bool = False
    #: Text beside a call is a turn of its own, before it.
    text_before_call: bool = False
    #: The system text opens the first question.
    system_in_question: bool = False
    #: Earlier reasoning is left out.
    without_reasoning: bool = False
    #: What is not there is left out, not None as transformers has it.
    left_out: bool = False
    #: Every parameter of a tool has a description.
    descriptions: bool = False
    #: Calls are a part of the answer's text.
    calls_in_text: bool = False
    #: Results are questions.
    results_as_questions: bool = False


def entries(messages: Sequence[Message], media: Iterable[str] = ()) -> list[Entry]:
    """``media``: what stands for each attachment, in their order; without it they are left out."""
    media = iter(media)
    return [entry for message in messages for entry in _entries(message, media)]


def text(message: Message, media: Iterator[str]) -> str:
    """Its texts and attachments, in their order."""
    texts = []
    for part in _parts(message, "TextPart", "AttachmentPart"):
        texts.append(next(media, "") if is_a(part, "AttachmentPart") else part.text or "")
    return "".join(texts)


def attachments(messages: Sequence[Message]) -> list[Any]:
    """All attachments, as ``entries`` has them: those of a tool's result stand with the result."""
    return [each for message in messages for each in _attachments(message)]


def _attachments(message: Message) -> list[Any]:
    of_results = [each for part in _parts(message, "ToolResultPart") for each in part.attachments]
    return of_results + [part.attachment for part in _parts(message, "AttachmentPart")]


def is_a(part: Any, name: str) -> bool:
    # llm.parts is imported by llm itself only when it is needed; naming the class keeps it so here.
    return type(part).__name__ == name


def _parts(message: Message, *kinds: str) -> list[Any]:
    return [part for part in message.parts if any(is_a(part, kind) for kind in kinds)]


def _entries(message: Message, media: Iterator[str]) -> list[Entry]:
    results: list[Entry] = [
        {
            "role": "tool",
            "name": part.name,
            "tool_call_id": part.tool_call_id,
            "content": "".join([part.exception or part.output, *islice(media, len(part.attachments))]),
        }
        for part in _parts(message, "ToolResultPart")
    ]
    calls = [
        {"id": part.tool_call_id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in _parts(message, "ToolCallPart")
    ]
    reasoning = "".join(part.text for part in _parts(message, "ReasoningPart"))
    content = text(message, media)
    if results and not content:
        return results
    entry: Entry = {"role": message.role, "content": content}
    if calls:
        entry["tool_calls"] = calls
    if reasoning:
        entry["reasoning_content"] = reasoning
    return [*results, entry]


def described(tool: Tool) -> dict[str, Any]:
    """A tool as templates read it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.input_schema or {"type": "object", "properties": {}},
        },
    }


def shapes(history: Sequence[Entry], tools: Sequence[dict[str, Any]]) -> Iterator[Shape]:
    """The shapes that make a difference, those with the fewest changes first."""
    calls = [entry for entry in history if entry.get("tool_calls")]
    matters = {
        "typed": True,
        "arguments_as_text": bool(calls),
        "one_call_a_turn": any(len(entry["tool_calls"]) > 1 for entry in calls),
        "short_ids": bool(calls),
        "text_before_call": any(entry["content"].strip() for entry in calls),
        "system_in_question": any(entry["role"] == "system" for entry in history),
        "without_reasoning": any(entry.get("reasoning_content") for entry in history),
        "left_out": True,
        "descriptions": bool(tools),
        "calls_in_text": bool(calls),
        "results_as_questions": any(entry["role"] == "tool" for entry in history),
    }
    names = [field.name for field in fields(Shape)]
    choices = [Shape(*values) for values in product(*((False, True) if matters[name] else (False,) for name in names))]

    def strangeness(shape: Shape) -> tuple[int, list[int]]:
        changed = [index for index, name in enumerate(names) if getattr(shape, name)]
        # What turns one thing into another comes last.
        return len(changed) + 2 * shape.calls_in_text + 2 * shape.results_as_questions, changed

    return iter(sorted(choices, key=strangeness))


def shaped(history: Sequence[Entry], shape: Shape, reasoning_names: Sequence[str]) -> list[Entry]:
    """``history`` in ``shape``, its reasoning under each of ``reasoning_names``. Nothing in it belongs to ``history``."""
    turns = [dict(entry) for entry in history]
    if shape.system_in_question:
        turns = _system_in_question(turns)
    if shape.text_before_call:
        turns = [turn for entry in turns for turn in _text_before_call(entry)]
    if shape.one_call_a_turn:
        turns = _one_call_a_turn(turns)
    if shape.calls_in_text:
        turns = [_calls_in_text(turn) for turn in turns]
    if shape.results_as_questions:
        turns = _results_as_questions(turns)
    return [_entry(turn, shape, reasoning_names) for turn in turns]


def _entry(entry: Entry, shape: Shape, reasoning_names: Sequence[str]) -> Entry:
    entry = dict(entry)
    reasoning = entry.pop("reasoning_content", None)
    if reasoning and not shape.without_reasoning:
        entry.update(dict.fromkeys(reasoning_names, reasoning))
    if shape.typed:
        entry["content"] = [{"type": "text", "text": entry["content"]}] if entry["content"] else []
    if "tool_calls" in entry:
        entry["tool_calls"] = [_call(call, shape) for call in entry["tool_calls"]]
    if shape.short_ids and entry.get("tool_call_id"):
        entry["tool_call_id"] = short_id(entry["tool_call_id"])
    return entry


def _call(call: dict[str, Any], shape: Shape) -> dict[str, Any]:
    function = dict(call["function"])
    if shape.arguments_as_text:
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    else:
        function["arguments"] = json.loads(json.dumps(function["arguments"]))
    identity = short_id(call["id"]) if shape.short_ids and call["id"] else call["id"]
    return {**call, "id": identity, "function": function}


def short_id(identity: str) -> str:
    """Nine letters and digits, always the same for the same id, so that a stored prompt stays a beginning of the next."""
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _system_in_question(history: list[Entry]) -> list[Entry]:
    systems = [entry["content"] for entry in history if entry["role"] == "system"]
    rest = [entry for entry in history if entry["role"] != "system"]
    for index, entry in enumerate(rest):
        if entry["role"] == "user":
            rest[index] = {**entry, "content": "\n\n".join([*systems, entry["content"]])}
            return rest
    return history


def _calls_in_text(entry: Entry) -> Entry:
    """With a line of JSON for each call, which is how a template that has no place for them is told."""
    entry = dict(entry)
    lines = [json.dumps(call["function"], ensure_ascii=False) for call in entry.pop("tool_calls", [])]
    return {**entry, "content": "\n".join([line for line in [entry["content"], *lines] if line])}


def _results_as_questions(history: list[Entry]) -> list[Entry]:
    """Results of one turn, and a question behind them, in one question, since many templates want turns to alternate."""
    turns: list[Entry] = []
    for entry in history:
        result = entry["role"] == "tool"
        if turns and entry["role"] in ("tool", "user") and turns[-1].get("result"):
            turns[-1]["content"] += f"\n\n{entry['content']}"
        else:
            turns.append({"role": "user", "content": entry["content"], "result": True} if result else entry)
    return [{key: value for key, value in turn.items() if key != "result"} for turn in turns]


def with_descriptions(tool: dict[str, Any]) -> dict[str, Any]:
    """``tool`` with a description, if an empty one, for each parameter."""
    tool = json.loads(json.dumps(tool))
    for parameter in tool["function"]["parameters"].get("properties", {}).values():
        if isinstance(parameter, dict):
            parameter.setdefault("description", "")
    return tool


def _text_before_call(entry: Entry) -> list[Entry]:
    if not entry.get("tool_calls") or not entry["content"].strip():
        return [entry]
    return [{"role": entry["role"], "content": entry["content"]}, {**entry, "content": ""}]


def _one_call_a_turn(history: list[Entry]) -> list[Entry]:
    turns: list[Entry] = []
    waiting = list(history)
    while waiting:
        entry = waiting.pop(0)
        calls = entry.get("tool_calls") or []
        if len(calls) < 2:
            turns.append(entry)
            continue
        results: list[Entry] = []
        while waiting and waiting[0]["role"] == "tool":
            results.append(waiting.pop(0))
        for index, call in enumerate(calls):
            turns.append({**entry, "tool_calls": [call], **({"content": ""} if index else {})})
            if index:
                turns[-1].pop("reasoning_content", None)
            result = _result_of(call, results)
            if result is not None:
                results.remove(result)
                turns.append(result)
        turns += results
    return turns


def _result_of(call: dict[str, Any], results: list[Entry]) -> Entry | None:
    own = [result for result in results if result["tool_call_id"] == call["id"]]
    named = [result for result in results if result["name"] == call["function"]["name"]]
    return next(iter(own or named or results), None)
