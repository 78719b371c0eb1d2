"""Reasoning and tool calls out of text, in the forms that models write, however the text is cut into pieces."""

import json
import random

import pytest

from llm_kvsplit.chat import calls, reasoning
from llm_kvsplit.chat.reasoning import Marker
from llm_kvsplit.chat.reply import Call, Form, ReplyParser, Text, form

TOOLS = {
    "f": {"type": "object", "properties": {"x": {"type": "integer"}, "s": {"type": "string"}}},
    "g": {},
    "get-weather": {"type": "object", "properties": {"place": {"type": "string"}}},
    "fs.read": {},
    "python": {"type": "object", "properties": {"code": {"type": "string"}}},
}
THINK = Marker("<think>", "</think>")
HOW = form("<think>", (THINK,))
HARMONY = form("<|start|><|channel|><|message|>")


def parse(text, *, size=1000, tools=TOOLS, how=HOW, **given):
    parser = ReplyParser(tools, how, **given)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    events = [event for piece in pieces for event in parser.feed(piece)] + list(parser.finish())
    joined = []
    for event in events:
        before = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(before, Text) and before.reasoning == event.reasoning:
            joined[-1] = Text(before.text + event.text, event.reasoning)
        else:
            joined.append(event)
    return joined


F, G = Call("f", {"x": 1}), Call("g", {})
ANSWERS = {
    "plain": ("Just an answer.", [Text("Just an answer.")]),
    "less-than signs": ("if a < b: <tool", [Text("if a < b: <tool")]),
    "reasoning": ("<think>\nHm.</think>\n\nYes.", [Text("Hm.", True), Text("Yes.")]),
    "empty reasoning": ("<think>\n\n</think>\n\nYes.", [Text("Yes.")]),
    "reasoning without an end": ("<think>Hm", [Text("Hm", True)]),
    "reasoning that is spoken of": (
        "Use <think> tags, and </think>, here.",
        [Text("Use <think> tags, and </think>, here.")],
    ),
    "a second time is prose": ("<think>a</think>b <think>c", [Text("a", True), Text("b <think>c")]),
    "a list": ("[1] is the source.", [Text("[1] is the source.")]),
    "JSON that is no call": ('{"answer": 42}', [Text('{"answer": 42}')]),
    "JSON with a name": ('{"name": "Bob", "age": 3}', [Text('{"name": "Bob", "age": 3}')]),
    "code": ("```json\n[1, 2]\n```", [Text("```json\n[1, 2]\n```")]),
    "a call that is not JSON": ("<tool_call>oops</tool_call> sorry", [Text("<tool_call>oops</tool_call> sorry")]),
    "a call cut short": ('<tool_call>{"name": "f"', [Text('<tool_call>{"name": "f"')]),
    "a tool that nobody offered": (
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        [Text('<tool_call>{"name": "rm", "arguments": {}}</tool_call>')],
    ),
    "a call in a thought": (
        "<think>Shall I <tool_call>{} or not?</think>No.",
        [Text("Shall I <tool_call>{} or not?", True), Text("No.")],
    ),
}
CALLS = {
    "hermes": (
        'Let me look.<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
        [Text("Let me look."), F],
    ),
    "hermes, two in one": (
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n{"name": "g", "arguments": {}}\n</tool_call>',
        [F, G],
    ),
    "hermes, two, text behind": (
        '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>\n<tool_call>{"name": "g"}</tool_call> Done.',
        [F, G, Text("Done.")],
    ),
    "its end in an argument": (
        '<tool_call>{"name": "f", "arguments": {"s": "</tool_call>"}}</tool_call>',
        [Call("f", {"s": "</tool_call>"})],
    ),
    "behind reasoning": ('<think>I need f.</think><tool_call>{"name": "g"}</tool_call>', [Text("I need f.", True), G]),
    "in reasoning that does not end": ('<think>I need f.<tool_call>{"name": "g"}', [Text("I need f.", True), G]),
    "qwen3-coder": (
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=s>\n<b>\n2\n</parameter>\n</function>\n</tool_call>",
        [Call("f", {"x": 1, "s": "<b>\n2"})],
    ),
    "qwen3-coder without its wrapper": ("<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>", [F]),
    "llama 3": ('{"name": "f", "parameters": {"x": 1}}', [F]),
    "llama 3, null": ('{"name": "g", "parameters": null}', [G]),
    "llama 3, several": ('{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}', [F, G]),
    "llama 3, a line each, text behind": (
        '{"name": "f", "parameters": {"x": 1}}\n{"name": "g", "parameters": {}}\nThere.',
        [F, G, Text("There.")],
    ),
    "llama 3 with its tag": ('<|python_tag|>{"name": "f", "parameters": {"x": "1"}}', [F]),
    "llama 3, code": ("<|python_tag|>print(1)", [Call("python", {"code": "print(1)"})]),
    "llama 3, a tool's own": ("<|python_tag|>f.call(x=1)", [F]),
    "llama 4": ('[f(x="1"), g()]', [F, G]),
    "a fence": ('```json\n{"name": "f", "arguments": {"x": 1}}\n```', [F]),
    "mistral": ('[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}, "id": "123456789"}]', [F]),
    "mistral, named": ('[TOOL_CALLS]f[ARGS]{"x": 1}', [F]),
    "mistral, several": ('[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[ARGS]{} So.', [F, G, Text("So.")]),
    "mistral, with ids": ('Wait.[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"x": 1}', [Text("Wait."), F]),
    "mistral, a hyphen": ('[TOOL_CALLS]get-weather{"place": "Oslo"}', [Call("get-weather", {"place": "Oslo"})]),
    "mistral, a point": ('[TOOL_CALLS]fs.read[ARGS]{"path": "/"}', [Call("fs.read", {"path": "/"})]),
    "mistral, one of two offered": (
        '[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}, {"name": "rm", "arguments": {}}]',
        [F, Text('{"name": "rm", "arguments": {}}')],
    ),
    "deepseek r1": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"x": 1}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [F, G],
    ),
    "deepseek v3.1": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        [F],
    ),
    "deepseek v3.2": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x" string="false">1</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="s" string="true">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        [Call("f", {"x": 1, "s": "1"})],
    ),
    "glm": (
        "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n<arg_key>s</arg_key>\n<arg_value>1</arg_value>\n"
        "</tool_call>\n<tool_call>g\n</tool_call>",
        [Call("f", {"x": 1, "s": "1"}), G],
    ),
    "glm 4": ('f\n{"x": 1}', [F]),
    "granite 3": ('<|tool_call|>[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]', [F, G]),
    "command r7b": (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "f", "parameters": {"x": 1}}\n]<|END_ACTION|>',
        [F],
    ),
    "gemma 4": ('<|tool_call>call:f{x:1,s:<|"|>a "b", c<|"|>}<tool_call|>', [Call("f", {"x": 1, "s": 'a "b", c'})]),
    "functionary 3.1": ('<function=f>{"x": 1}</function><function=g>{}</function>', [F, G]),
    "lfm2": ("<|tool_call_start|>[f(x=1, s='a\\'b'), g()]<|tool_call_end|>", [Call("f", {"x": 1, "s": "a'b"}), G]),
    "kimi": (
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>'
        "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        [F, G],
    ),
    "minimax": (
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="x">1</parameter>\n</invoke>\n</minimax:tool_call>',
        [F],
    ),
    "apertus": ('<|tools_prefix|>[{"f": {"x": 1}}, {"g": {}}]<|tools_suffix|>', [F, G]),
    "phi 4 mini": ('functools[{"name": "f", "arguments": {"x": 1}}]', [F]),
}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("case", ANSWERS | CALLS)
def test_any_cut_gives_the_same(case, size):
    text, expected = (ANSWERS | CALLS)[case]
    assert parse(text, size=size) == expected


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>final<|message|>Yes.", [Text("Yes.")]),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            [Text("Hm.", True), Text("Yes.")],
        ),
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            '<|constrain|>json<|message|>{"x": 1}<|call|>',
            [Text("I look."), F],
        ),
        (" to=functions.g<|channel|>commentary json<|message|>{}", [G]),
        ("No head at all.", [Text("No head at all.")]),
        ("<|channel|>analysis and no more", [Text("<|channel|>analysis and no more")]),
        ("<|channel|>commentary to=functions.rm<|message|>{}<|call|>", [Text("{}")]),
    ],
)
def test_harmony(text, expected, size):
    assert parse(text, size=size, how=HARMONY) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('f\n{"x": 1}', [F]),
        ('all\nI look.>>>f\n{"x": 1}>>>g\n{}', [Text("I look."), F, G]),
        ("all\nYes.", [Text("Yes.")]),
    ],
)
def test_functionary_whose_prompt_has_begun_a_name(text, expected):
    assert parse(text, size=1, how=form(">>>"), prompt="<|eot_id|>>>>") == expected


@pytest.mark.parametrize("marker", reasoning.MARKERS, ids=lambda marker: marker.opening.strip())
def test_every_marker_of_reasoning(marker):
    (own,) = [one for one in reasoning.markers_in(marker.opening + marker.closing) if one == marker]
    how = form(marker.opening, (own,))
    for size in (1, 1000):
        text = f"{marker.opening}Hm.{marker.closing}Yes."
        assert parse(text, size=size, how=how, tools={}) == [Text("Hm.", True), Text("Yes.")]
        assert parse(f"Hm.{marker.closing}Yes.", size=size, how=how, reasoning=marker)[0] == Text("Hm.", True)
        prose = f"Write {marker.opening} there."
        assert parse(prose, size=size, how=how, tools={}) == [Text(prose)]


@pytest.mark.parametrize("size", [1, 1000])
def test_what_means_nothing_is_left_out_of_reasoning_too(size):
    how = form("<think><channel|>", (THINK,))
    assert parse("<think>a<channel|>b</think>c", size=size, how=how) == [Text("ab", True), Text("c")]


def test_reasoning_that_is_opened_twice():
    assert parse("<think>Hm.</think>Yes.", size=1, reasoning=THINK) == [Text("Hm.", True), Text("Yes.")]


def test_an_answer_after_a_schema_is_taken_as_it_is():
    text = json.dumps({"name": "f", "arguments": {"x": "<think>"}})
    assert parse(text, tools={}, how=Form()) == [Text(text)]
    assert parse("<think>", tools={}, how=Form()) == [Text("<think>")]
    assert not Form().visible


def test_without_tools_a_call_is_text():
    for text, _ in CALLS.values():
        shown = parse(text, size=3, tools={}, how=Form())
        assert "".join(piece.text for piece in shown) == text


def test_control_tokens_of_the_forms_are_seen():
    assert {
        "<tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        "<think>",
        '<|"|>',
        "<|action_start|>",
    } <= HOW.visible
    assert {"<|channel|>", "<|end|>"} <= HARMONY.visible
    assert "<|end|>" not in HOW.visible


def atoms():
    markers = [*calls.WRAPPERS, *calls.UNUSUAL, *filter(None, calls.WRAPPERS.values()), *calls.WITHIN]
    markers += [text for marker in reasoning.MARKERS for text in (marker.opening, marker.closing)]
    words = ["f", "get-weather", '{"name": "f", "arguments": {"x": 1}}', "{}[]()", *'{}[]()"\\,;:=', "\n", "```json\n"]
    words += [
        "<parameter=x>",
        "</parameter>",
        '<invoke name="f">',
        "call:f{",
        "\x00",
        "\ud800",
        "[" * 200,
        '{"a":' * 99,
    ]
    words += ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", " to=functions.f", "analysis"]
    return markers + words


def test_hostile_texts_are_neither_lost_nor_end_anything():
    choice = random.Random(7)
    alphabet = [*atoms(), *["Wort ", "é"] * 20]
    templates = (None, " ".join(atoms()).replace("<|message|>", ""))
    for _ in range(600):
        text = "".join(choice.choice(alphabet) for _ in range(choice.choice((4, 30, 120))))
        template = choice.choice(templates)
        how = form(template, reasoning.markers_in(template))
        events = parse(text, size=choice.choice((1, 5, 10_000)), how=how, tools=choice.choice((TOOLS, {})))
        if not any(isinstance(event, Call) for event in events):
            shown = "".join(event.text for event in events)
            assert [shown.count(word) for word in ("Wort", "é")] == [text.count(word) for word in ("Wort", "é")]
