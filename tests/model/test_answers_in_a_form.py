"""Answers that follow a schema, a regular expression or a grammar, of real inference."""

import json
import re

import numpy as np
import pytest

from llm_kvsplit import demo, grammar, registry
from llm_kvsplit.engine import vocabulary
from llm_kvsplit.engine.weights import LoadOptions, Weights
from tests.support.ggufs import CHAT, write_llama, write_scripted

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
BOB = '{"name":"Bob"}'
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def add(tmp_path, name, scripts, template=CHAT):
    registry.add(registry.Entry(name, write_scripted(tmp_path / f"{name}.gguf", scripts, chat_template=template)))


@pytest.mark.feature("forms")
def test_a_regular_expression(llm):
    for seed in "123":
        out = llm(
            "-m", "kvsplit-demo", "-o", "regex", r"[A-Z][a-z]{2,5} \d{1,2}!", "-o", "seed", seed, "A name: "
        ).stdout
        assert re.fullmatch(r"[A-Z][a-z]{2,5} \d{1,2}!\n", out)


@pytest.mark.feature("forms")
def test_a_grammar(llm, tmp_path):
    file = tmp_path / "moves.lark"
    file.write_text('start: ("up" | "down") ("," ("up" | "down")){2}\n')
    out = llm("-m", "kvsplit-demo", "-o", "grammar", str(file), "-o", "temperature", "2", "A move: ").stdout
    assert re.fullmatch(r"(up|down)(,(up|down)){2}\n", out)


@pytest.mark.feature("schemas")
def test_llms_own_schemas(llm):
    options = ("-o", "temperature", "1", "-o", "seed", "1")
    dog = json.loads(llm("-m", "kvsplit-demo", "--schema", "tame bool, age int", *options, "A dog: ").stdout)
    assert isinstance(dog["tame"], bool)
    assert isinstance(dog["age"], int)
    schema = {"type": "object", "properties": {"items": {"type": "array", "maxItems": 2, "items": PERSON}}}
    schema |= {"required": ["items"], "additionalProperties": False}
    assert len(json.loads(llm("-m", "kvsplit-demo", "--schema", json.dumps(schema), "x").stdout)["items"]) <= 2


def test_what_cannot_be_enforced_is_said_before_a_model_is_loaded(llm, user_path, tmp_path):
    file = tmp_path / "none.gguf"
    file.write_bytes(demo.MODEL.read_bytes()[: 1 << 20])  # cut short: it cannot be loaded
    registry.add(registry.Entry("cut", file))
    asked = llm("-m", "kvsplit-demo", "--schema", '{"type": "array", "uniqueItems": true}', "x", code=1)
    assert asked.stderr == "Error: The schema has uniqueItems (at $), which cannot be enforced: leave it out.\n"
    assert asked.stdout == ""


def test_an_answer_cut_short_is_told(llm):
    cut = llm("-m", "kvsplit-demo", "--schema", json.dumps(PERSON), "-o", "max_tokens", "3", "x")
    assert cut.stderr == "Note: the context or -o max_tokens cut the answer before it was whole by the schema.\n"
    whole = llm("-m", "kvsplit-demo", "--schema", '{"const": 12}', "-o", "max_tokens", "3", "x")
    assert (whole.stdout, whole.stderr) == ("12\n", "")


def test_oneof_is_told(llm):
    schema = {"oneOf": [{"const": 1.5}, {"type": "number", "minimum": 2, "maximum": 2}]}
    asked = llm("-m", "kvsplit-demo", "--schema", json.dumps(schema), "x")
    assert json.loads(asked.stdout) in (1.5, 2)
    assert asked.stderr == "Note: oneOf was taken for anyOf; the answer was checked, and follows the schema.\n"
    asked = llm("-m", "kvsplit-demo", "--schema", '{"oneOf": [{"const": 1}, {"enum": [1]}]}', "x", code=1)
    assert "does not follow the schema, whose oneOf" in asked.stderr


def test_nothing_in_the_answer_is_reasoning_or_a_call(llm, logged):
    out = llm("-m", "kvsplit-demo", "--schema", '{"const": "Use <think> tags, [TOOL_CALLS]"}', "x").stdout
    assert json.loads(out) == "Use <think> tags, [TOOL_CALLS]"


def test_reasoning_that_the_template_opens_comes_before(llm, tmp_path, user_path, logged):
    add(tmp_path, "thinker", {"<think>": ["Hm.", "</think>"], "<answer>": ["no"]}, template=CHAT + "<think>")
    done = llm("-m", "thinker", "--schema", '{"const": {"a": 1}}', "-o", "temperature", "0", "x")
    assert json.loads(done.stdout) == {"a": 1}
    assert logged()["response"] == json.dumps({"a": 1}, separators=(",", ":")) or json.loads(logged()["response"])
    assert "Hm." not in done.stdout


def test_reasoning_that_the_model_opens_comes_before(llm, tmp_path, user_path):
    add(tmp_path, "thinker", {"<answer>": ["<think>", "Hm.", "</think>", BOB]})
    done = llm("-m", "thinker", "--schema", json.dumps(NAMED), "-o", "temperature", "0", "x")
    assert done.stdout == BOB + "\n"


def test_reasoning_that_ends_the_text_is_closed(llm, tmp_path, user_path):
    add(tmp_path, "thinker", {"<answer>": ["<think>", "Hm."], "other": ["</think>"]})
    done = llm("-m", "thinker", "--schema", '{"const": 7}', "-o", "temperature", "0", "x")
    assert done.stdout == "7\n"


def test_with_tools_an_answer_is_no_call_and_a_call_is_no_answer(llm, tmp_path, user_path):
    add(tmp_path, "answering", {"<answer>": [BOB]})
    done = llm("-m", "answering", "-T", "llm_version", "--schema", json.dumps(NAMED), "-o", "temperature", "0", "x")
    assert done.stdout == BOB + "\n"
    call = '{"name": "llm_version", "arguments": {}}'
    add(tmp_path, "calling", {"<answer>": ["<tool_call>", call, "</tool_call>"], "<after-tool>": [BOB]})
    done = llm("-m", "calling", "-T", "llm_version", "--schema", json.dumps(NAMED), "-o", "temperature", "0", "x")
    assert done.stdout.endswith(BOB + "\n")


def test_a_vocabulary_that_cannot_go_on_is_told(llm, tmp_path, user_path):
    """Control tokens are no text, so only bytes can spell; here each byte is its own token, and all goes well."""
    registry.add(registry.Entry("bytes", write_llama(tmp_path / "bytes.gguf", specials=("<a>", '"x"'))))
    for seed in "12":
        out = llm("-m", "bytes", "--schema", '{"enum": ["x", "ü"]}', "-o", "seed", seed, "x").stdout
        assert json.loads(out) in ("x", "ü")


def test_the_vocabulary_is_what_llama_cpp_writes(tmp_path, user_path, monkeypatch):
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vocabulary, "_WORTH_KEEPING", 0)
    weights = Weights(LoadOptions(demo.MODEL))
    asked = vocabulary.read(weights)
    for token in range(weights.n_vocab):
        text = weights.piece(token, special=False)
        assert asked.tokens[token] == (text or b"\xff" + weights.piece(token, special=True))
    assert asked.ends == [token for token in range(weights.n_vocab) if weights.is_end(token)]
    assert len(list((tmp_path / "cache" / "vocabularies").iterdir())) == 1
    assert vocabulary.read(weights) == asked
    weights.close()


def test_masks_are_what_llguidance_takes(user_path):
    """Each token of the bundled vocabulary, tried alone, against the mask."""
    weights = Weights(LoadOptions(demo.MODEL))
    form = grammar.Grammar('{"grammars": [{"json_schema": {"type": ["string", "boolean"]}}]}', "the schema")
    made = grammar.matcher(vocabulary.tokenizer(weights), form.text)
    mask = np.unpackbits(np.frombuffer(made.compute_bitmask(), np.uint8), count=weights.n_vocab, bitorder="little")
    alone = [made.validate_tokens([token]) for token in range(weights.n_vocab)]
    assert mask.tolist() == alone
    assert 0 < sum(alone) < weights.n_vocab
    weights.close()


def test_a_schema_of_20000_steps_is_read_or_refused(llm, tmp_path):
    """The stack of an ordinary thread would end, and the process with it."""
    steps = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"type": "string"}]} for i in range(20_000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**steps, "d20000": {"type": "integer"}}}
    (tmp_path / "steps.json").write_text(json.dumps(schema))
    error = llm("-m", "kvsplit-demo", "--schema", "steps.json", "x", code=1).stderr
    assert error.splitlines()[-1].startswith("Error: The schema cannot be enforced")
