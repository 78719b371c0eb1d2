"""A pair that is slow with the library at hand is said so, once in a conversation; and how slow is measured."""

import json

import pytest

from llm_kvsplit import demo
from llm_kvsplit.builds import choice, pair_speed, probe
from llm_kvsplit.engine import rows
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair

K8V4 = CachePair.from_bits(8, 4)
ASK = ("-m", "kvsplit-demo", "-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "max_tokens", "2")


@pytest.fixture
def measured_as(tmp_path, monkeypatch):
    """Let the cache remember a measurement of K8V4 with the library at hand."""
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "cache"))

    def remember(factor: float, fallen_from: str = "") -> None:
        folder = tmp_path / "cache" / "probes"
        folder.mkdir(parents=True, exist_ok=True)
        speed = {"factor": factor, "device": "the CPU", "fallen_from": fallen_from}
        (folder / f"{probe.key(choice.choose())}-K8V4.json").write_text(json.dumps(speed))

    return remember


def test_a_slow_pair_is_told_once_in_a_conversation(llm, measured_as):
    measured_as(8.2)
    first = llm(*ASK, "def f(")
    assert "With K8V4 a prompt of 8192 tokens takes 8.2 times as long as with f16" in first.stderr
    assert first.stderr.count("Note:") == 1 and "Note" not in first.stdout
    assert "Note" not in llm("-c", *ASK, "and").stderr
    assert "Note" in llm(*ASK, "class A:").stderr  # another conversation
    assert "Note" not in llm("-m", "kvsplit-demo", "-o", "max_tokens", "2", "x").stderr  # f16


def test_a_chat_hears_it_once(llm, measured_as):
    measured_as(8.2)
    assert llm("chat", *ASK, stdin="def f(\nclass A\nquit\n").stderr.count("Note:") == 1


def test_attention_that_fell_off_the_gpu_is_told_however_fast(llm, measured_as):
    measured_as(1.0, fallen_from="Apple M3")
    assert "attention runs on the CPU instead of Apple M3" in llm(*ASK, "def f(").stderr


def test_a_pair_that_is_not_slow_needs_no_word(llm, measured_as):
    measured_as(1.1)
    assert not llm(*ASK, "def f(").stderr


@pytest.mark.parametrize("pair", ["f16", "K8V4"])
def test_a_repeated_state_is_what_llama_cpp_restores(pair):
    """Each repeat holds the same bytes, at later positions."""
    bits = {"f16": (16, 16), "K8V4": (8, 4)}[pair]
    weights = Weights(LoadOptions(demo.MODEL))
    context = Context(weights, ContextOptions(CachePair.from_bits(*bits), 512))
    context.evaluate(list(range(100, 164)))
    state = context.state()
    longer = rows.repeated(state, 64, 3)
    context.clear()
    assert context.restore(longer, list(range(100, 164)) * 3)
    assert (context.state() == longer).all()
    once, thrice = rows.parse(state, 64), rows.parse(longer, 192)
    for side in ("k", "v"):
        for short, long in zip(getattr(once, side), getattr(thrice, side)):
            assert (long.view.reshape(3, 64, -1) == short.view).all()
    context.close()
    weights.close()


def test_the_measurement_runs_and_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path))
    speed = pair_speed.of(choice.choose(), K8V4)
    assert speed.factor > 0 and speed.device
    (file,) = tmp_path.glob("probes/*-K8V4.json")
    file.write_text(json.dumps({"factor": 3.5, "device": "the CPU", "fallen_from": ""}))
    assert pair_speed.of(choice.choose(), K8V4).factor == 3.5
