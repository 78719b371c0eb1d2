"""Reasoning and tool calls out of text, however the text is cut into pieces."""

import pytest

from llm_kvsplit.chat.reply import Call, ReplyParser, Text, parse_calls


def parse(text, *, size, tools=True, reasoning_open=False):
    parser = ReplyParser(tools=tools, reasoning_open=reasoning_open)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    events = [event for piece in pieces for event in parser.feed(piece)] + list(parser.finish())
    joined = []
    for event in events:
        if (
            joined
            and isinstance(event, Text)
            and isinstance(joined[-1], Text)
            and joined[-1].reasoning == event.reasoning
        ):
            joined[-1] = Text(joined[-1].text + event.text, event.reasoning)
        else:
            joined.append(event)
    return joined


CASES = {
    "plain": ("Just an answer.", [Text("Just an answer.")]),
    "less-than signs": ("if a < b: <tool", [Text("if a < b: <tool")]),
    "reasoning": ("<think>\nHm.</think>\n\nYes.", [Text("Hm.", True), Text("Yes.")]),
    "empty reasoning": ("<think>\n\n</think>\n\nYes.", [Text("Yes.")]),
    "hermes": (
        'Let me look.<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
        [Text("Let me look."), Call("f", {"x": 1})],
    ),
    "two calls": (
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>',
        [Call("f", {}), Call("g", {})],
    ),
    "reasoning, then a call": (
        '<think>I need f.</think><tool_call>{"name": "f", "arguments": {}}</tool_call>',
        [Text("I need f.", True), Call("f", {})],
    ),
    "mistral list": ('[TOOL_CALLS][{"name": "f", "arguments": {"x": "y"}}]', [Call("f", {"x": "y"})]),
    "mistral name": ('[TOOL_CALLS]f[ARGS]{"x": 2}', [Call("f", {"x": 2})]),
    "llama 3": ('{"name": "f", "parameters": {"x": 1}}', [Call("f", {"x": 1})]),
    "llama 3 with its tag": ('<|python_tag|>{"name": "f", "parameters": {}}', [Call("f", {})]),
    "JSON that is no call": ('{"answer": 42}', [Text('{"answer": 42}')]),
    "a call that is not JSON": ("<tool_call>oops</tool_call> sorry", [Text("<tool_call>oops</tool_call> sorry")]),
    "a call cut short": ('<tool_call>{"name": "f"', [Text('<tool_call>{"name": "f"')]),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_any_cut_gives_the_same(case, size):
    text, expected = CASES[case]
    assert parse(text, size=size) == expected


def test_the_template_may_have_opened_the_reasoning():
    assert parse("Hm.</think>Yes.", size=2, reasoning_open=True) == [Text("Hm.", True), Text("Yes.")]


def test_without_tools_a_call_is_text():
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse(text, size=4, tools=False) == [Text(text)]


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "[1]", '{"name": 1}', '{"name": "f", "arguments": 3}', "{", "f(", "[" * 9]
)
def test_what_is_no_call(body):
    assert parse_calls(body) == []
