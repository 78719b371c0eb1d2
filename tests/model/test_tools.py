"""Tool calls and reasoning through llm's own loop, with a model that says exactly what the test wants."""

import llm
import pytest

from llm_kvsplit import registry
from tests.support.ggufs import CHAT, write_scripted

CALL = '<tool_call>{"name": "double", "arguments": {"n": 21}}</tool_call>'


@pytest.fixture
def model(tmp_path, user_path):
    script = {"<answer>": ["<think>", "I should double it.", "</think>", CALL], "<after-tool>": ["It is 42."]}
    registry.add(registry.Entry("caller", write_scripted(tmp_path / "caller.gguf", script, chat_template=CHAT)))
    return llm.get_model("caller")


def double(n: int) -> int:
    "Twice the number."
    return 2 * n


@pytest.mark.feature("tools")
def test_the_tool_loop(model):
    chain = model.chain("What is twice 21?", tools=[double])
    assert chain.text().strip() == "It is 42."
    first, second = chain._responses
    (call,) = first.tool_calls()
    assert (call.name, call.arguments) == ("double", {"n": 21})
    # The second prompt carried the call and its result to the model, in the template's words.
    (tool_message,) = [message for message in second.prompt.messages if message.role == "tool"]
    assert tool_message.parts[0].output == "42"


@pytest.mark.feature("reasoning")
def test_reasoning_is_told_apart(model):
    response = model.prompt("What is twice 21?")
    events = list(response.stream_events())
    assert "".join(e.chunk for e in events if e.type == "reasoning") == "I should double it."
    assert response.text() == CALL  # no tools were offered, so it is text


@pytest.mark.feature("reasoning")
def test_the_cli_hides_reasoning_when_asked(model, llm):
    shown = llm("-m", "caller", "-R", "What is twice 21?").stdout
    assert "double it" not in shown
