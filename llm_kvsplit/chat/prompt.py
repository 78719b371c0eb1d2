"""llm's messages -> the model's own chat template -> the text it is asked to continue."""

from __future__ import annotations

import copy
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import KvsplitError
from . import losses, messages, reasoning
from . import template as program
from .marks import Marks, marks_for, texts_of
from .messages import Entry, Shape
from .template_limits import TemplateLimit

if TYPE_CHECKING:
    from llm import Tool
    from llm.parts import Message

#: Shapes to try, those with the fewest changes first.
_TRIES = 200
#: Names that templates read earlier reasoning under. transformers gives the first two.
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning", "thought")


@dataclass(frozen=True)
class Rendered:
    text: str
    #: The same with marks for characters that the template did not write (see ``marks``); as long as ``text``.
    marked: str
    #: What stands in both for each attachment, in the conversation's order: a character that is in no text.
    media: str = ""
    #: The template that was used.
    template: str | None = None
    #: The reasoning that the template has opened, so that the answer begins inside it.
    reasoning: reasoning.Marker | None = None
    #: Whether the template has the switch that was asked for.
    switched: bool = True
    #: What of the conversation does not stand in the prompt, though the template was taken (see ``_tolerated``).
    missing: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the person who asks should know of it."""
        notes = []
        if not self.switched:
            notes.append("This model's chat template has no switch for reasoning, so -o thinking changes nothing.")
        if self.missing:
            notes.append(f"The model's chat template leaves out {_enumerated(self.missing)}.")
        return notes


def render(
    conversation: Sequence[Message],
    templates: str | Mapping[str, str] | None,
    *,
    bos: str = "",
    eos: str = "",
    tools: Sequence[Tool] = (),
    thinking: bool | None = None,
    answer_only: bool = False,
) -> Rendered:
    """The prompt as text, special tokens spelled out.

    ``templates``: the model's template, or those it has by name ("default", "tool_use"). Without one the messages are
    joined as they are, for the model to continue. ``answer_only``: the answer comes at once, as a schema wants it, so
    reasoning that the template opens is closed again.

    Raises KvsplitError when the template cannot take these messages, with the template's own reason, or when it leaves
    out a part of them, which it names.
    """
    if not templates:
        return _plain(conversation, tools)
    if isinstance(templates, str):
        templates = {"default": templates}
    offered = [messages.described(tool) for tool in tools]
    texts = [*templates.values(), *texts_of(messages.entries(conversation)), *texts_of(offered)]
    marks = marks_for(texts, len(messages.attachments(conversation)))
    history = messages.entries(conversation, marks.media)
    special = {"bos_token": bos, "eos_token": eos}
    refusals: list[KvsplitError] = []
    for chosen in _choice(templates, history, offered):
        try:
            return _rendered(chosen, history, offered, marks, special, thinking, answer_only)
        except KvsplitError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _choice(templates: Mapping[str, str], history: list[Entry], offered: list[dict[str, Any]]) -> list[str]:
    """The templates to try, the likeliest first."""
    default, tool_use = templates.get("default"), templates.get("tool_use")
    calls = any(entry.get("tool_calls") or entry["role"] == "tool" for entry in history)
    order = (tool_use, default) if offered else (default, tool_use) if calls else (default,)
    return [one for one in order if one] or list(templates.values())[:1]


def _plain(conversation: Sequence[Message], tools: Sequence[Tool]) -> Rendered:
    """For a model without a template: an answer follows its question directly, the next question a line below."""
    if tools:
        raise KvsplitError(
            "This model has no chat template, so it cannot be offered tools: use an instruct model, or have them described "
            "in words with -o generic_tools 1."
        )
    marks = marks_for(texts_of(messages.entries(conversation)), len(messages.attachments(conversation)))
    media = iter(marks.media)
    text = ""
    for message in conversation:
        if any(messages.is_a(part, name) for part in message.parts for name in ("ToolCallPart", "ToolResultPart")):
            raise KvsplitError(
                "The conversation holds tool calls, and this model has no chat template to write them: ask in a new one, "
                "or have them written in words with -o generic_tools 1."
            )
        if message.role != "assistant" and text:
            text += "\n"
        text += messages.text(message, media)
    return Rendered(text, marks.mark(text), marks.media)


@dataclass(frozen=True)
class _Question:
    """What a template is run on."""

    template: str
    history: list[Entry]
    tools: list[dict[str, Any]]
    variables: dict[str, Any]

    def run(self, shape: Shape, marks: Marks | None = None, **variables: Any) -> str:
        history, tools = (
            self.history,
            [messages.with_descriptions(tool) if shape.descriptions else tool for tool in self.tools],
        )
        if marks is not None:
            history, tools = [_marked(entry, marks) for entry in history], marks.mark(tools)
        turns = messages.shaped(history, shape, _reasoning_names(self.template))
        given = {"messages": turns, "add_generation_prompt": True, **self.variables, **_offer(tools, self.template)}
        if not shape.left_out:
            given = {"tools": None, "documents": None, **given}
        return program.render(self.template, {**given, **variables}, marks.escapes if marks is not None else None)


def _offer(tools: list[dict[str, Any]], template: str) -> dict[str, Any]:
    names = program.variables_of(template)
    offer: dict[str, Any] = {"tools": copy.deepcopy(tools)} if tools else {}
    if tools and "tools" not in names and "xml_tools" in names:  # SmolLM3
        offer["xml_tools"] = offer["tools"]
    if {"functions", "datetime"} <= names:  # FireFunction
        offer["functions"] = json.dumps(tools, ensure_ascii=False, indent=4)
        offer["datetime"] = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return offer


def _rendered(
    template: str,
    history: list[Entry],
    offered: list[dict[str, Any]],
    marks: Marks,
    special: dict[str, str],
    thinking: bool | None,
    answer_only: bool,
) -> Rendered:
    question = _Question(template, history, offered, special)
    shape, missing = _shape(question, marks)
    switch = None
    wanted = False if answer_only else thinking
    by_word = False
    if wanted is not None:
        switch = reasoning.switch(template, wanted, lambda more: question.run(shape, **more))
        if switch is None:
            by_word = reasoning.switched_by_word(template, lambda word: _asking(question, word).run(shape))
            question = _asking(question, reasoning.WORDS[wanted]) if by_word else question
    text = _run(question, shape, marks, switch or {})
    marked = marks.marked(text)
    plain = marks.plain(marked)
    opened = reasoning.opened(plain, template)
    if answer_only and opened is not None:
        closing = f"\n{opened.closing}\n\n"
        plain, marked, opened = plain + closing, marked + closing, None
    switched = thinking is None or switch is not None or by_word
    return Rendered(plain, marked, marks.media, template, opened, switched, tuple(missing))


def _asking(question: _Question, word: str) -> _Question:
    """``question`` with ``word`` at the end of what was asked last."""
    history = list(question.history)
    for index in reversed(range(len(history))):
        if history[index]["role"] == "user":
            history[index] = {**history[index], "content": f"{history[index]['content']} {word}"}
            break
    return replace(question, history=history)


def _run(question: _Question, shape: Shape, marks: Marks, variables: dict[str, Any]) -> str:
    try:
        return question.run(shape, marks, **variables)
    except Exception as ex:
        raise _refusal(ex) from ex


def _shape(question: _Question, marks: Marks) -> tuple[Shape, list[str]]:
    """The shape in which the template takes the conversation, and what it leaves out nevertheless.

    Raises KvsplitError where no shape will do.
    """
    probes = losses.probes(question.history, question.tools, question.template)
    probing = _Question(question.template, probes.history, probes.tools, question.variables)
    refusal: Exception | None = None
    best: tuple[Shape, list[str]] | None = None
    for shape in islice(messages.shapes(question.history, question.tools), _TRIES):
        try:
            text = question.run(shape)
        except Exception as ex:  # a template is a program from the model's author: anything may come out of it
            refusal = refusal or ex
            if isinstance(ex, TemplateLimit):
                break
            continue
        try:
            missing = probes.missing(probing.run(shape))
        except Exception:
            missing = probes.missing_in_truth(text)
        if not set(marks.media) <= set(marks.marked(text)):
            missing.append(losses.ATTACHMENT)
        if best is None or len(missing) < len(best[1]):
            best = shape, missing
        if not missing:
            return best
    if best is None:
        assert refusal is not None, "there is always a first shape"
        raise _refusal(refusal) from refusal
    if not _tolerated(*best, question):
        raise _loss(best[1])
    return best


def _tolerated(shape: Shape, missing: list[str], question: _Question) -> bool:
    """Whether a note will do for what is missing.

    The tools that are offered may be missing where the template writes earlier calls (DeepSeek V3.1): the model knows
    tools. And a template that never writes a question is no chat's, but its author's own affair.
    """
    calls = any(entry.get("tool_calls") for entry in question.history)
    if missing == [losses.OFFERED] and calls and not shape.calls_in_text:
        return True
    return not _writes_questions(question)


def _writes_questions(question: _Question) -> bool:
    probes = losses.probes([{"role": "user", "content": "question"}], [], question.template)
    alone = _Question(question.template, probes.history, [], question.variables)
    for shape in messages.shapes(alone.history, []):
        try:
            if not probes.missing(alone.run(shape)):
                return True
        except Exception:  # another shape may do
            continue
    return False


@functools.lru_cache(maxsize=16)  # a template is tried in many shapes
def _reasoning_names(template: str) -> list[str]:
    read = [name for name in _REASONING_NAMES if re.search(rf"(\.|\['|\[\"){name}\b|['\"]{name}['\"]", template)]
    return read or ["reasoning_content"]


def _marked(turn: Entry, marks: Marks) -> Entry:
    if turn["role"] == "assistant":
        return {**marks.mark(turn), "content": marks.mark_answer(turn["content"])}
    return marks.mark(turn)


def _loss(missing: list[str]) -> KvsplitError:
    if losses.OFFERED in missing:
        return KvsplitError(
            "This model's chat template has no place for tools: use a model that was trained for them, ask without, or "
            "have them described in words with -o generic_tools 1."
        )
    parts = _enumerated(missing)
    return KvsplitError(f"The model's chat template leaves out {parts}: ask in a new conversation, or another model.")


def _enumerated(parts: Sequence[str]) -> str:
    """As in a sentence: "a, b and c"."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _refusal(ex: Exception) -> KvsplitError:
    return KvsplitError(f"The model's chat template does not take this conversation: {str(ex).rstrip('.')}.")
