"""Tools described in words, through llm's own loop and command line, with templates that have no place for them."""

import json

import llm as llm_
import pytest

from llm_kvsplit import registry
from tests.support.ggufs import write_scripted

#: No tools, no calls, no results; an answer to a result is told apart by its words.
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if 'Result of' in messages[-1].content %}<after-tool>{% else %}<answer>{% endif %}"
)
HEAD = ("<tool_call>", '{"name": "double", "arguments": ', '{"n": ')
FUNCTIONS = "def double(n: int) -> int:\n    'Twice the number.'\n    return 2 * n\n"


def add(tmp_path, name, *answer, after=("It is 42.",)):
    scripts = {"<answer>": [*answer], "<after-tool>": [*after]}
    registry.add(
        registry.Entry(name, write_scripted(tmp_path / f"{name}.gguf", scripts, chat_template=PLAIN, n_ctx=2048))
    )
    return llm_.get_model(name)


@pytest.fixture
def model(tmp_path, user_path):
    return add(tmp_path, "caller", "Let me see.", *HEAD, "21", "}}</tool_call>")


def double(n: int) -> int:
    "Twice the number."
    return 2 * n


def test_the_tool_loop(model):
    chain = model.chain("What is twice 21?", tools=[double], options={"generic_tools": True})
    assert chain.text().split("Let me see.")[-1].strip() == "It is 42."
    first, second = chain._responses
    assert [(call.name, call.arguments) for call in first.tool_calls()] == [("double", {"n": 21})]
    assert first.text() == "Let me see."
    # What llm logs and gives back is one call with one result.
    (call,) = [part for message in second.prompt.messages for part in message.parts if hasattr(part, "arguments")]
    (result,) = [part for message in second.prompt.messages for part in message.parts if hasattr(part, "output")]
    assert (call.arguments, result.output, result.tool_call_id) == ({"n": 21}, "42", call.tool_call_id)


@pytest.mark.feature("tool arguments")
@pytest.mark.parametrize("stream", [True, False])
def test_arguments_come_while_they_are_written(model, stream):
    response = model.prompt("What is twice 21?", tools=[double], generic_tools=True, stream=stream)
    events = [event for event in response.stream_events() if event.type != "text"]
    assert [event.type for event in events] == ["tool_call_name", *["tool_call_args"] * (len(events) - 1)]
    assert len({event.tool_call_id for event in events}) == 1
    pieces = [event.chunk for event in events[1:]]
    assert json.loads("".join(pieces)) == {"n": 21}
    assert len(pieces) > 2
    (call,) = response.tool_calls()
    assert call.tool_call_id == events[0].tool_call_id


def test_what_does_not_follow_the_schema_cannot_be_chosen(tmp_path, user_path):
    def decide(yes: bool) -> str:
        return f"decided {yes}"

    model = add(tmp_path, "wrong", "<tool_call>", '{"name": "decide", "arguments": {"yes": ', '"maybe"', ', "a": 1')
    response = model.prompt("Decide.", tools=[decide], generic_tools=True, temperature=0)
    (call,) = response.tool_calls()
    assert call.name == "decide" and isinstance(call.arguments["yes"], bool) and len(call.arguments) == 1
    assert response.text() == ""


def test_an_answer_in_words_is_no_call(tmp_path, user_path):
    model = add(tmp_path, "talker", 'Use {"name": "double"} or [TOOL_CALLS]', " for that.")
    response = model.prompt("What is twice 21?", tools=[double], generic_tools=True)
    assert response.text() == 'Use {"name": "double"} or [TOOL_CALLS] for that.'
    assert response.tool_calls() == []


@pytest.mark.feature("generic tools")
def test_through_the_command_line(model, llm, logged):
    asked = ("--functions", FUNCTIONS, "What is twice 21?")
    refused = llm("-m", "caller", *asked, code=1).stderr
    assert refused == (
        "Error: This model's chat template has no place for tools: use a model that was trained for them, ask without, or "
        "have them described in words with -o generic_tools 1.\n"
    )
    for more in ((), ("--no-stream",)):
        done = llm("-m", "caller", "-o", "generic_tools", "1", *more, *asked)
        assert done.stdout.endswith("It is 42.\n")
    first = logged()["input_tokens"]
    assert llm("-c", "-o", "generic_tools", "1", *asked).stdout.endswith("It is 42.\n")
    assert logged()["input_tokens"] > first + len("What is twice 21?")  # the first round stands in the prompt
    # llm forgets the functions of an earlier question, but not their results.
    assert llm("-c", "-o", "generic_tools", "1", "Thanks.").stdout.startswith("Let me see.")


def test_a_chain_has_a_limit(tmp_path, user_path, llm):
    calling = (*HEAD, "21", "}}</tool_call>")
    add(tmp_path, "endless", *calling, after=calling)
    done = llm("-m", "endless", "-o", "generic_tools", "1", "--chain-limit", "3", "--functions", FUNCTIONS, "x", code=1)
    assert "Chain limit of 3 exceeded" in done.stderr


def test_a_call_that_was_cut_short_is_not_carried_out(model, capsys):
    response = model.prompt("What is twice 21?", tools=[double], generic_tools=True, max_tokens=4)
    assert response.text() == "Let me see."
    assert response.tool_calls() == []
    assert "cut the answer before it was whole by the schemas of the tools" in capsys.readouterr().err


def test_a_model_without_a_template_can_be_told_of_tools(llm):
    options = ("-o", "generic_tools", "1", "-o", "max_tokens", "8", "-o", "temperature", "0")
    assert llm("-m", "kvsplit-demo", *options, "--functions", FUNCTIONS, "def f(").stdout.strip()
    assert "-o generic_tools 1" in llm("-m", "kvsplit-demo", "--functions", FUNCTIONS, "def f(", code=1).stderr


def test_a_real_model_fills_in_a_call(smol):
    """It does not call by itself. Where only a call or one word is allowed, it takes the numbers from the question."""

    def multiply(a: int, b: int) -> int:
        "Multiply two numbers."
        return a * b

    options = {"generic_tools": True, "regex": "QQQQ", "temperature": 0, "max_tokens": 60, "n_threads": 1}
    response = llm_.get_model("smol").prompt("Call multiply with a = 12 and b = 34.", tools=[multiply], **options)
    call = response.tool_calls()[0]
    assert (call.name, call.arguments) == ("multiply", {"a": 12, "b": 34})
