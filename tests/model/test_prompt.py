"""Asking through llm's own command line, each call a process of its own."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from llm_kvsplit import registry
from tests.support.ggufs import CHAT, write_scripted
from tests.support.library import BUILD

K8V4 = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4")


@pytest.fixture
def reciter(tmp_path, user_path):
    """A registered chat model whose every answer is known."""
    path = write_scripted(tmp_path / "reciter.gguf", {"<answer>": ["Certainly", ", ", "yes."]}, chat_template=CHAT)
    registry.add(registry.Entry("reciter", path, aliases=("r",), kv_key_bits=8, kv_value_bits=4))
    return path


@pytest.mark.feature("usage")
def test_the_demo_model_answers_with_split_bits(llm, logged):
    out = llm(
        "-m", "kvsplit-demo", *K8V4, "-o", "max_tokens", "8", "-o", "temperature", "0", "def fibonacci(n):"
    ).stdout
    assert out.strip()
    response = logged()
    assert response["resolved_model"] == "kvsplit-demo"
    assert response["output_tokens"] == 8
    assert response["input_tokens"] > 0
    cache = response["response_json"]["kv_cache"]
    assert (cache["key_type"], cache["value_type"], cache["n_ctx"]) == ("q8_0", "iq4_nl", 256)
    assert cache["f16_bytes"] == 6 * 2 * (64 + 64) * 2 * 256
    assert cache["bytes"] / cache["f16_bytes"] == pytest.approx((8.5 + 4.5) / 32)
    assert response["response_json"]["backend"] == BUILD.name


def test_without_options_the_cache_is_f16(llm, logged):
    llm("-m", "kvsplit-demo", "-o", "max_tokens", "2", "import os")
    cache = logged()["response_json"]["kv_cache"]
    assert (cache["key_type"], cache["value_type"]) == ("f16", "f16")
    assert cache["bytes"] == cache["f16_bytes"]


@pytest.mark.feature("stream")
@pytest.mark.parametrize("how", [(), ("--no-stream",)])
def test_an_answer_streamed_or_not(llm, reciter, how):
    assert llm("-m", "r", *how, "Is it?").stdout == "Certainly, yes.\n"


def test_json_output(llm, reciter):
    (row,) = json.loads(llm("-m", "reciter", "--json", "Is it?").stdout)
    assert row["response"] == "Certainly, yes."
    assert row["response_json"]["kv_cache"]["key_type"] == "q8_0"  # the registered default


@pytest.mark.feature("async")
def test_async(reciter):
    import llm as llm_package

    async def ask():
        model = llm_package.get_async_model("reciter")
        one, two = model.prompt("Is it?"), model.prompt("And that?")
        pieces = [piece async for piece in one]
        return pieces, await two.text(), (await one.usage()).output

    pieces, second, tokens = asyncio.run(ask())
    assert "".join(pieces) == second == "Certainly, yes."
    assert len(pieces) > 1
    assert tokens == 3


def test_continuing_sends_the_system_prompt_and_the_first_turn(llm, logged, reciter):
    """Across processes; what counts is the tokens sent, so the prompt is compared with the template's text."""
    llm("-m", "reciter", "-s", "Be brief.", "First?")
    llm("-c", "Second?")
    expected = "<system>Be brief.<user>First?<assistant>Certainly, yes.<user>Second?<answer>"
    from llm_kvsplit.engine.weights import LoadOptions, Weights

    weights = Weights(LoadOptions(reciter))
    n = len(weights.tokenize(expected, add_special=True, parse_special=True))
    weights.close()
    assert logged()["input_tokens"] == n
    import llm as llm_package

    # The same chain, asked for the tokens themselves.
    from llm.parts import Message, TextPart

    from llm_kvsplit.chat import render

    def say(role, text):
        return Message(role=role, parts=[TextPart(text=text)])

    chain = [
        say("system", "Be brief."),
        say("user", "First?"),
        say("assistant", "Certainly, yes."),
        say("user", "Second?"),
    ]
    assert render(chain, CHAT).text == expected
    assert llm_package.get_model("reciter")


def test_chat_loads_once_and_reuses_the_prefix(llm, reciter):
    llm("chat", "-m", "reciter", stdin="One?\nTwo?\nexit\n")
    first, second = json.loads(llm("logs", "--json", "-n", "2").stdout)
    assert first["response_json"]["reused_tokens"] == 0
    # All of the first turn but its last token and what the template changes stays in the cache.
    shared = first["input_tokens"] - 1
    assert second["response_json"]["reused_tokens"] >= shared


def test_a_context_that_is_too_small_grows_and_keeps_its_state(llm, logged):
    options = ("-m", "kvsplit-demo", *K8V4, "-o", "temperature", "0", "-o", "max_tokens")
    grown = llm(*options, "700", "import collections\n").stdout
    response = logged()["response_json"]
    assert response["kv_cache"]["n_ctx"] >= 703
    # The same answer from a context that never grows, and from one that had to.
    fixed = llm("-m", "kvsplit-demo", *K8V4, "-o", "temperature", "0", "-o", "max_tokens", "700", "-o", "n_ctx", "1024",
                "import collections\n").stdout  # fmt: skip
    assert grown == fixed


def test_stop_text_is_not_shown(llm, reciter):
    assert llm("-m", "reciter", "-o", "stop", "ly, y", "Is it?").stdout == "Certain\n"


def test_same_seed_same_answer(llm):
    ask = ("-m", "kvsplit-demo", "-o", "max_tokens", "24", "-o", "temperature", "1.5", "-o", "seed")
    one, again, other = (llm(*ask, seed, "class ").stdout for seed in ("1", "1", "2"))
    assert one == again != other


def test_schema_makes_the_answer_follow_it(llm):
    """A hot temperature and several seeds, so that control characters inside strings would come up."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,  # or it goes on until the tokens are used up
    }
    for seed in ("1", "2", "3"):
        options = ("-o", "max_tokens", "300", "-o", "seed", seed, "-o", "temperature", "3")
        out = llm("-m", "kvsplit-demo", "--schema", json.dumps(schema), *options, "A person: ")
        person = json.loads(out.stdout)
        assert isinstance(person["name"], str)
        assert isinstance(person["age"], int)


def test_ctrl_c_leaves_the_partial_answer_logged(llm, logged, user_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "llm", "-m", "kvsplit-demo", "-o", "max_tokens", "2000", "-o", "seed", "1", "import "],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() would leave out what lies in Python's buffer
    )
    shown = process.stdout.read(20)  # the answer has begun
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors
    response = logged()
    assert response["response_json"]["finish_reason"] == "interrupted"
    assert 0 < response["output_tokens"] < 2000
    # No token came after the one that the person saw last.
    assert response["response"].encode() == (shown + rest).removesuffix(b"\n")


def test_models_are_listed_with_their_options(llm, reciter):
    out = llm("models", "--options").stdout
    assert "kvsplit-demo" in out
    assert "kv_key_bits: int" in out
    assert "reciter (aliases: r)" in out
