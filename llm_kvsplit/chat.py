"""llm's messages -> the model's own chat template -> the text it is asked to continue."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import KvsplitError

if TYPE_CHECKING:
    from llm import Tool
    from llm.parts import Message


@dataclass(frozen=True)
class Rendered:
    text: str
    #: The template has already opened the model's reasoning, so the answer begins inside it.
    reasoning_open: bool = False


def render(
    messages: Sequence[Message],
    template: str | None,
    *,
    bos: str = "",
    eos: str = "",
    tools: Sequence[Tool] = (),
    thinking: bool | None = None,
) -> Rendered:
    """The prompt as text, special tokens spelled out.

    Without a template the messages are joined as they are, for the model to continue. Raises KvsplitError when the
    template cannot take these messages, with the template's own reason.
    """
    if template is None:
        if tools:
            raise KvsplitError("This model has no chat template, so it cannot be offered tools: use an instruct model.")
        return Rendered(_plain(messages))
    if tools and "tools" not in template:
        raise KvsplitError("This model's chat template has no place for tools: use a model that was trained for them.")
    variables: dict[str, Any] = {
        "add_generation_prompt": True,
        "bos_token": bos,
        "eos_token": eos,
        "tools": [_tool(tool) for tool in tools] or None,
    }
    if thinking is not None:
        variables["enable_thinking"] = thinking
    history = [entry for message in messages for entry in _entries(message)]
    try:
        text = _render(template, history, variables)
    except Exception as ex:  # a template is a program from the model's author: anything may come out of it
        if not history or history[0]["role"] != "system":
            raise _template_error(ex) from ex
        # Some templates (Gemma's) have no system role and say so; its text then opens the first question.
        try:
            text = _render(template, _system_in_first_question(history), variables)
        except Exception:
            raise _template_error(ex) from ex
    return Rendered(text, reasoning_open=text.rstrip().endswith("<think>"))


def _plain(messages: Sequence[Message]) -> str:
    """For a model without a template: an answer follows its question directly, the next question a line below."""
    text = ""
    for message in messages:
        if message.role != "assistant" and text:
            text += "\n"
        text += _text(message)
    return text


def _text(message: Message) -> str:
    return "".join(part.text for part in message.parts if getattr(part, "text", None) and _is(part, "TextPart"))


def _is(part: Any, name: str) -> bool:
    # llm.parts is imported by llm itself only when it is needed; naming the class keeps it so here.
    return type(part).__name__ == name


def _entries(message: Message) -> list[dict[str, Any]]:
    """One llm message as the dictionaries that chat templates expect (Hugging Face's convention)."""
    results = [
        {"role": "tool", "name": part.name, "tool_call_id": part.tool_call_id, "content": part.exception or part.output}
        for part in message.parts
        if _is(part, "ToolResultPart")
    ]
    calls = [
        {
            "id": part.tool_call_id,
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
        for part in message.parts
        if _is(part, "ToolCallPart")
    ]
    reasoning = "".join(part.text for part in message.parts if _is(part, "ReasoningPart"))
    text = _text(message)
    if results and not text:
        return results
    entry: dict[str, Any] = {"role": message.role, "content": text}
    if calls:
        entry["tool_calls"] = calls
    if reasoning:
        entry["reasoning_content"] = reasoning
    return [*results, entry]


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.input_schema or {"type": "object", "properties": {}},
        },
    }


def _system_in_first_question(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system, *rest = history
    for index, entry in enumerate(rest):
        if entry["role"] == "user":
            joined = {**entry, "content": f"{system['content']}\n\n{entry['content']}"}
            return [*rest[:index], joined, *rest[index + 1 :]]
    return rest


def _template_error(ex: Exception) -> KvsplitError:
    return KvsplitError(f"The model's chat template does not take this conversation: {ex}.")


def _render(template: str, history: list[dict[str, Any]], variables: dict[str, Any]) -> str:
    return _compile(template).render(messages=history, **variables)


@functools.lru_cache(maxsize=4)
def _compile(template: str) -> Any:
    # The template comes with a downloaded file, so it runs in jinja2's sandbox.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    # jinja2's own filter escapes <, > and & for HTML, which a model was not trained on.
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


def _raise_exception(message: str) -> None:
    raise ValueError(message)
