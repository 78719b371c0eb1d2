"""Tools described in words, for templates without a place for them: prompt, form and reading of a call."""

import itertools
import json
import random

import pytest
from llm import Tool

from llm_kvsplit import forms, grammar
from llm_kvsplit.chat import generic_tools, render
from llm_kvsplit.chat.calls import Call
from llm_kvsplit.chat.generic_tools import CallArguments, CallBegun, CallEnded, Reader
from llm_kvsplit.chat.reply import Text
from llm_kvsplit.errors import KvsplitError
from tests.support.chats import ASK, LOOK, call, results, say

TAKING_TURNS = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index % 2 == 0) and m.role != 'system' %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
SAME = Tool(name="same", description="", input_schema={})
COUNT = Tool(
    name="count",
    description='Counts "things".',
    input_schema={
        "type": "object",
        "properties": {"of": {"type": "string"}, "most": {"type": "integer", "maximum": 9}},
        "required": ["of"],
    },
)
CALL = '<tool_call>{"name": "count", "arguments": {"of": "é \\"}]", "most": 3}}</tool_call>'
SECOND = '<tool_call>{"name": "same", "arguments": {}}</tool_call>'


def accepted(form, text):
    """Whether the whole of ``text`` is an answer of that form, as llguidance has it."""
    from llguidance import LLTokenizer

    matcher = grammar.matcher(LLTokenizer("byte"), form.text)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def test_a_template_without_a_place_for_tools_gets_them_in_words():
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    with pytest.raises(KvsplitError, match="-o generic_tools 1"):
        render([ASK], template, tools=[LOOK])
    text = render(generic_tools.written_out([ASK], [LOOK]), template).text
    assert text.startswith("<system>") and text.endswith("<user>Ask")
    for part in ("look", "Look.", json.dumps(LOOK.input_schema)):
        assert part in text
    ruled = render(generic_tools.written_out([say("system", "Rule."), ASK], [LOOK]), template).text
    assert ruled.startswith("<system>Rule.\n\n") and ruled.count("<system>") == 1
    assert "look" not in render(generic_tools.written_out([ASK], []), template).text


def test_calls_and_results_stand_in_the_next_prompt():
    chain = [ASK, call({"at": "x"}, {"at": "y"}, text="I look."), results("one", "two"), say("user", "More?")]
    text = render(generic_tools.written_out(chain, [LOOK]), TAKING_TURNS).text
    written = [f'<tool_call>{{"name": "look", "arguments": {{"at": "{at}"}}}}</tool_call>' for at in "xy"]
    told = "Result of look:\none\nResult of look:\ntwo\n\nMore?"
    assert text.endswith(f"<user>Ask<assistant>I look.\n{written[0]}\n{written[1]}<user>{told}")


def test_a_call_that_was_cut_short_is_written_as_far_as_it_came():
    (turn,) = generic_tools.written_out([call({"_raw": '{"at": "no'})], [])
    assert turn.parts[-1].text == '<tool_call>{"name": "look", "arguments": {"at": "no'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is <b>4</b>, {so} to say.\n", True),
        ("", True),
        ("I count.\n" + CALL, True),
        (CALL, True),
        (f"{CALL}\n{SECOND}{SECOND}", True),
        (CALL + " Done.", False),  # what comes back would be made up
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', False),
        (CALL.replace("3", "30"), False),
        (CALL.replace("3", '"3"'), False),
        (CALL.replace('"most"', '"least"'), False),
        ('<tool_call>{"name": "count", "arguments": {}}</tool_call>', False),
        (SECOND.replace("{}", '{"a": 1}'), False),
        ("<tool_call>oh", False),
    ],
)
def test_an_answer_is_text_or_calls_that_follow_their_schemas(text, expected):
    assert accepted(generic_tools.grammar([COUNT, SAME], None), text) == expected


def test_beside_another_form_an_answer_is_a_call_or_has_that_form(tmp_path):
    (tmp_path / "yes.lark").write_text('start: "yes" | "no"\n')
    asked = [({"const": "yes"}, None, None), (None, '"yes"', None), (None, None, str(tmp_path / "yes.lark"))]
    for schema, regex, lark in asked:
        form = generic_tools.grammar([COUNT], forms.wanted(schema, regex, lark))
        assert accepted(form, "yes" if lark else '"yes"')
        assert accepted(form, CALL)
        assert not accepted(form, "Hm") and not accepted(form, "yes" + CALL)


def test_a_schema_that_cannot_be_enforced_is_an_error_that_names_the_tool():
    tool = Tool(name="tag", description="", input_schema={"properties": {"of": {"uniqueItems": True}}})
    with pytest.raises(KvsplitError, match=r"The schema of the tool tag has uniqueItems \(at \$.properties.of\)"):
        generic_tools.grammar([COUNT, tool], None)


def test_a_call_that_follows_an_approximated_schema_by_chance_is_checked():
    either = {"oneOf": [{"multipleOf": 2, "type": "integer"}, {"multipleOf": 3, "type": "integer"}]}
    tool = Tool(name="tag", description="", input_schema={"type": "object", "properties": {"n": either}})
    good, bad = (f'<tool_call>{{"name": "tag", "arguments": {{"n": {n}}}}}</tool_call>' for n in (4, 6))
    form = generic_tools.grammar([tool], None)
    assert accepted(form, good) and accepted(form, bad)
    assert CallEnded(Call("tag", {"n": 4})) in [*Reader([tool]).feed(good)]
    with pytest.raises(KvsplitError, match="does not follow the tool's schema, whose oneOf"):
        [*Reader([tool]).feed(bad)]


def read(text, cut=()):
    """The events of ``text`` cut at these places, pieces of a kind joined, and the reader."""
    reader, events = Reader([COUNT, SAME]), []
    edges = [0, *sorted(cut), len(text)]
    for a, b in itertools.pairwise(edges):
        events += reader.feed(text[a:b])
    events += reader.finish()
    joined = []
    for event in events:
        if joined and isinstance(event, (Text, CallArguments)) and type(event) is type(joined[-1]):
            event = type(event)(joined.pop().text + event.text)
        joined.append(event)
    return joined


COUNTED = [
    CallBegun("count"),
    CallArguments('{"of": "é \\"}]", "most": 3}'),
    CallEnded(Call("count", {"of": 'é "}]', "most": 3})),
]
SAMED = [CallBegun("same"), CallArguments("{}"), CallEnded(Call("same", {}))]
READINGS = {
    " An answer. ": [Text("An answer. ")],
    f"I count.{CALL}": [Text("I count."), *COUNTED],
    f"{CALL}\n{SECOND}{SECOND}": [*COUNTED, *SAMED, *SAMED],
    "a <tool_c": [Text("a <tool_c")],
    '<tool_call>{"name": "co': [Text('<tool_call>{"name": "co')],
    '<tool_call>{"name": "count", "arguments": {"of": "x': [CallBegun("count"), CallArguments('{"of": "x')],
    SECOND[:-5]: SAMED,
}


@pytest.mark.parametrize("text", READINGS)
def test_an_answer_is_read_as_it_comes_however_it_is_cut(text):
    assert read(text) == READINGS[text]
    assert read(text, range(1, len(text))) == READINGS[text]
    choice = random.Random(text)
    for _ in range(30):
        assert read(text, choice.sample(range(1, len(text)), 3)) == READINGS[text]


def test_arguments_come_while_they_are_written():
    reader = Reader([COUNT])
    begun = [*reader.feed('<tool_call>{"name": "count", "arguments": {"of": "a lo')]
    assert begun == [CallBegun("count"), CallArguments('{"of": "a lo')]
    assert [*reader.feed("ng te")] == [CallArguments("ng te")]
