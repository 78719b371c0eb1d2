"""llama.cpp's own test texts of tool calls, read by llm-kvsplit: how many calls and answers come out the same.

tests/test-chat.cpp says of each text which calls, which answer and which reasoning it holds, and which template it
belongs to. Cut-off texts, those with a schema and those that the test puts together itself are left out.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora import Corpus
from llm import Tool
from llm.parts import Message, TextPart

from llm_kvsplit.chat import reasoning, render
from llm_kvsplit.chat.reply import Call, ReplyParser, form
from llm_kvsplit.errors import KvsplitError

_LITERAL = re.compile(r'R"(\w*)\((.*?)\)\1"|"((?:[^"\\\n]|\\.)*)"', re.DOTALL)


@dataclass
class Case:
    template: str
    text: str
    tools: dict[str, dict[str, Any]]
    calls: list[tuple[str, Any]]
    content: str | None = None
    reasoning: str | None = None
    thinking: bool | None = None
    parts: dict[str, str] = field(default_factory=dict)


def literals(code: str) -> list[str]:
    """The texts of a piece of C++, neighbouring ones joined."""
    texts: list[str] = []
    end = -1
    for match in _LITERAL.finditer(code):
        text = match[2] if match[2] is not None else _unescaped(match[3])
        if texts and not code[end : match.start()].strip():
            texts[-1] += text
        else:
            texts.append(text)
        end = match.end()
    return texts


def _unescaped(text: str) -> str:
    # C++ has bytes where Python has characters.
    return ast.literal_eval('"' + text.replace("\\?", "?") + '"')


def balanced(code: str, at: int) -> int:
    """Where the bracket at ``at`` is closed."""
    depth = 0
    while at < len(code):
        if literal := _LITERAL.match(code, at):
            at = literal.end()
            continue
        depth += (code[at] in "({") - (code[at] in ")}")
        at += 1
        if depth == 0:
            return at
    return at


def chain(code: str, at: int) -> dict[str, str]:
    """The calls ``.name(arguments)`` one behind the other from ``at`` on."""
    functions = {}
    while match := re.compile(r"\s*\.?(\w+)\(").match(code, at):
        end = balanced(code, match.end() - 1)
        functions[match[1]] = code[match.end() : end - 1]
        at = end
    return functions


def cases(source: Path) -> Iterator[Case]:
    """Every complete text with its template."""
    code = re.sub(r"(?m)^\s*//.*$", "", (source / "tests/test-chat.cpp").read_text(encoding="utf-8"))
    tools = dict(_tools(code))
    messages = {
        name: literals(text)
        for name, text in re.findall(r"common_chat_msg (\w+)\s*=\s*simple_assist_msg\((.*?)\);", code, re.DOTALL)
    }
    template = ""
    for match in re.finditer(r'peg_tester\((?:"([^"]+)")?|tst(?=\.test\()', code):
        if match[0] != "tst":
            template = match[1] or ""
        if match[0] != "tst" or not template:
            continue
        steps = chain(code, match.end())
        if "run" not in steps or {"json_schema", "is_partial", "messages", "continue_final_message"} & set(steps):
            continue
        case = _case(template, steps, tools, messages)
        if case is not None:
            yield case


def _tools(code: str) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    for match in re.finditer(r"static common_chat_tool (\w+)\s*\{", code):
        name, _, schema = literals(code[match.end() : balanced(code, match.end() - 1)])[:3]
        yield match[1], {name: json.loads(schema)}


def _case(template: str, steps: dict[str, str], known: dict[str, Any], messages: dict[str, list[str]]) -> Case | None:
    texts = literals(steps["test"])
    if len(texts) != 1 or re.search(r"\w", re.sub(_LITERAL, "", steps["test"])):
        return None  # put together by the test
    tools: dict[str, dict[str, Any]] = {}
    for name in re.findall(r"\b\w+\b", re.sub(_LITERAL, "", steps.get("tools", ""))):
        tools |= known.get(name, {})
    own = literals(re.sub(r"/\*.*?\*/", "", steps.get("tools", "")))
    for name, schema in zip(own[::3], own[2::3]):
        tools[name] = json.loads(schema)
    case = Case(template, texts[0], tools, [])
    if "enable_thinking" in steps:
        case.thinking = steps["enable_thinking"].strip() == "true"
    if expected := steps.get("expect"):
        case.content, case.reasoning, *calls = _message(expected.strip(), messages)
        if not all(map(_json, calls[1::2])):
            return None
        case.calls = [(name, json.loads(given or "{}")) for name, given in zip(calls[::2], calls[1::2])]
    for group in re.findall(
        r"\{((?:[^{}]|\{\s*\}|R\"\(.*?\)\"|\"(?:[^\"\\]|\\.)*\")*?)\}\s*[,}]",
        steps.get("expect_tool_calls", "") + ",",
        re.DOTALL,
    ):
        name, arguments = [*literals(group), "", ""][:2]
        if name and not _json(arguments):
            return None
        if name:
            case.calls.append((name, json.loads(arguments or "{}")))
    if "expect_content" in steps:
        case.content = "".join(literals(steps["expect_content"]))
    if "expect_reasoning" in steps:
        case.reasoning = "".join(literals(steps["expect_reasoning"]))
    if "reasoning_format" not in steps or "NONE" in steps["reasoning_format"]:
        case.reasoning = None  # there, reasoning is left in the text
        if case.content and re.search(r"think|THINK|channel", case.content):
            case.content = None
    return case


#: How the test's helpers order what they are given: (c)ontent, (r)easoning, then names and arguments.
_HELPERS = {
    "simple_assist_msg": "crna",
    "message_with_tool_calls": "na",
    "message_with_tool_calls_and_reasoning": "nar",
    "message_with_reasoning_and_tool_call": "rna",
    "message_with_content_and_tool_call": "cna",
    "message_with_reasoning_content_and_multiple_tool_calls": "rcnananana",
}


def _message(code: str, known: dict[str, list[str]]) -> list[str]:
    """Content, reasoning, and name and arguments of each call, of an expected message."""
    parts = known.get(code) or literals(code)
    order = _HELPERS.get(code.partition("(")[0].strip(), "crna")
    given = list(zip(order, parts))
    content, thought = ("".join(text for kind, text in given if kind == which) for which in "cr")
    calls = [text for kind, text in given if kind in "na"]
    calls += [""] * (len(calls) % 2)
    return [content, thought, *(calls if calls and calls[0] else [])]


def _json(text: str) -> bool:
    """Whether it is; calls that were cut off are not."""
    try:
        return json.loads(text or "{}") is not None
    except ValueError:
        return False


def answer(case: Case, source: Path) -> tuple[list[tuple[str, Any]], str, str]:
    """Calls, text and reasoning, as llm-kvsplit reads them."""
    template = (source / case.template).read_text(encoding="utf-8")
    offered = [Tool(name=name, description="", input_schema=schema) for name, schema in case.tools.items()]
    asked = [Message(role="user", parts=[TextPart(text="Hey there!")])]
    try:
        rendered = render(asked, template, tools=offered, thinking=case.thinking)
        opened, prompt = rendered.reasoning, rendered.text
    except KvsplitError:  # a template that has no place for tools
        rendered = render(asked, template, thinking=case.thinking)
        opened, prompt = rendered.reasoning, rendered.text
    parser = ReplyParser(case.tools, form(template, reasoning.markers_in(template)), reasoning=opened, prompt=prompt)
    pieces = [piece for letter in case.text for piece in parser.feed(letter)] + list(parser.finish())
    calls = [(piece.name, piece.arguments) for piece in pieces if isinstance(piece, Call)]
    texts = [piece for piece in pieces if not isinstance(piece, Call)]
    answer_ = "".join(piece.text for piece in texts if not piece.reasoning)
    return calls, answer_, "".join(piece.text for piece in texts if piece.reasoning)


def measure(corpus: Corpus) -> dict[str, Any]:
    """Right and all calls, answers and reasonings of each template, and the texts that come out otherwise."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    otherwise = []
    for case in cases(corpus.folder):
        calls, text, thought = answer(case, corpus.folder)
        same = [
            (bool(case.calls), calls == case.calls),
            (case.content is not None, case.content is not None and text.strip() == case.content.strip()),
            (case.reasoning is not None, case.reasoning is not None and thought.strip() == case.reasoning.strip()),
        ]
        name = Path(case.template).stem
        for index, (counted, right) in enumerate(same):
            counts[name][2 * index] += counted and right
            counts[name][2 * index + 1] += counted
        if any(counted and not right for counted, right in same):
            otherwise.append(
                {
                    "template": name,
                    "text": case.text[:300],
                    "here": [calls, text[:200], thought[:200]],
                    "there": [case.calls, case.content, case.reasoning],
                }
            )
    return {
        "corpus": f"{corpus.title}, tests/test-chat.cpp",
        "families": dict(sorted(counts.items())),
        "otherwise": otherwise,
    }
