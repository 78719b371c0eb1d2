"""A chat model that others trained (SmolLM2-135M-Instruct, Q4_1), through llm's own command line."""

import json
import signal
import subprocess
import sys

import jsonschema
import pytest

#: Two threads that wait for each other a thousand times a token are slow where others have the cores.
ONE = ("-o", "n_threads", "1")
GREEDY = (*ONE, "-o", "temperature", "0", "-o", "max_tokens", "40")
ASK = ("-m", "smol", *GREEDY)
#: A question with a stored state is evaluated in other batches, and a greedy answer may then be another one.
ANEW = ("-o", "kv_sessions", "false")
EGYPT = "What is the capital of Egypt?"


def chatml(*turns: tuple[str, str]) -> str:
    """The prompt as the model's authors write it (tokenizer_config.json): no BOS, a line break after each turn."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


@pytest.fixture
def count(smollm2):
    """Tokens of a text, special ones read as such."""
    from llm_kvsplit.engine.weights import LoadOptions, Weights

    def tokens(text: str) -> int:
        weights = Weights(LoadOptions(smollm2))
        try:
            return len(weights.tokenize(text, add_special=False, parse_special=True))
        finally:
            weights.close()

    return tokens


@pytest.mark.feature("template")
def test_an_answer_ends_by_itself_and_shows_no_markup(llm, logged, smol, count):
    out = llm(*ASK, EGYPT).stdout
    assert "Cairo" in out and "<|" not in out and out == out.strip() + "\n"
    response = logged()
    assert response["response_json"]["finish_reason"] == "stop" and response["output_tokens"] < 40
    # The template puts its own system prompt where there is none.
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert response["input_tokens"] == count(chatml(("system", system), ("user", EGYPT)))


def test_however_it_is_asked_for_the_answer_is_the_same(llm, smol):
    ways = [(), ("--no-stream",), ("--async",), ("--async", "--no-stream")]
    assert len({llm(*way, *ASK, *ANEW, EGYPT).stdout for way in ways}) == 1


@pytest.mark.feature("continue")
def test_another_process_goes_on_with_the_system_prompt_and_the_stored_state(llm, logged, smol, count):
    system, question = "Your name is Amber. You are a guide in the museum of Oslo.", "What is your name?"
    llm(*ASK, "-s", system, EGYPT)
    first = logged()
    assert first["response_json"]["session"]["restored_tokens"] == 0
    out = llm("-c", *GREEDY, question).stdout
    second = logged()
    assert "Amber" in out
    # The prompt is the first one, its answer as the model spelt it, and the rest: 16 tokens or so are evaluated.
    before = first["input_tokens"] + first["output_tokens"]
    rest = f"<|im_end|>\n{chatml(('user', question))}"
    assert second["input_tokens"] == before + count(rest)
    report = second["response_json"]
    assert report["session"]["restored_tokens"] == report["reused_tokens"] == before


@pytest.mark.feature("chat")
def test_a_chat_keeps_its_cache(llm, smol):
    llm("chat", *ASK, stdin=f"{EGYPT}\nWhat is the capital of Japan?\nexit\n")
    first, second = json.loads(llm("logs", "--json", "-n", "2").stdout)
    assert "Cairo" in first["response"] and "Tokyo" in second["response"]
    assert second["response_json"]["reused_tokens"] == first["input_tokens"] + first["output_tokens"]


@pytest.mark.feature("schemas")
def test_an_answer_in_the_form_of_a_schema(llm, smol):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "born": {"type": "integer"},
            "city": {"enum": ["Paris", "London", "Rome"]},
        },
        "required": ["name", "born", "city"],
        "additionalProperties": False,  # or it goes on until the tokens are used up
    }
    for seed in ("1", "2", "3"):
        options = (*ONE, "-o", "seed", seed, "-o", "max_tokens", "200", "--schema", json.dumps(schema))
        person = json.loads(llm("-m", "smol", *options, "Ada Lovelace was born in London in 1815.").stdout)
        jsonschema.validate(person, schema)
        assert person["city"] == "London"


@pytest.mark.feature("interrupt")
def test_ctrl_c_leaves_what_came_in_the_log(logged, smol):
    process = subprocess.Popen(
        [sys.executable, "-m", "llm", "-m", "smol", *ONE, "-o", "seed", "1", "Write a long story about a lighthouse."],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    shown = process.stdout.read(20)  # the answer has begun
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == b""
    response = logged()
    assert response["response_json"]["finish_reason"] == "interrupted"
    assert response["response"].encode() == (shown + rest).removesuffix(b"\n")


def test_a_prompt_that_is_longer_than_the_model_was_trained_for(llm, smol):
    (line,) = llm("-m", "smol", "word " * 9000, code=1).stderr.splitlines()
    assert line.startswith("Error: The prompt has 90") and "the context holds 8192" in line


def test_tools_are_refused_since_its_template_has_no_place_for_them(llm, smol):
    (line,) = llm("-m", "smol", "-T", "llm_time", "What time is it?", code=1).stderr.splitlines()
    assert "no place for tools" in line


@pytest.mark.feature("bits")
@pytest.mark.parametrize(
    ("key_bits", "value_bits", "mib"), [(16, 16, 180), (8, 8, 95.625), (8, 4, 73.125), (4, 4, 50.625)]
)
def test_bytes_of_the_cache_at_8192_tokens(llm, logged, smol, key_bits, value_bits, mib):
    """30 layers, 3 KV heads of 64 values; 8.5 and 4.5 bits a value with their scales."""
    bits = ("-o", "kv_key_bits", str(key_bits), "-o", "kv_value_bits", str(value_bits))
    llm("-m", "smol", *ONE, *bits, "-o", "n_ctx", "8192", "-o", "max_tokens", "1", "Hi")
    cache = logged()["response_json"]["kv_cache"]
    assert (cache["n_ctx"], cache["bytes"]) == (8192, mib * 2**20)
