"""Ctrl-C in the moment that llama.cpp calls Python, where ctypes takes no exception, is raised once llama.cpp returns."""

import signal

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import noise
from llm_kvsplit.engine import library
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.tap import Tap
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair

F16 = ContextOptions(CachePair.from_bits(16, 16), 256, 1)


@pytest.fixture
def weights():
    weights = Weights(LoadOptions(demo.MODEL))
    yield weights
    weights.close()


def pressed(values):
    signal.raise_signal(signal.SIGINT)
    return values


def test_in_a_tap(weights):
    tap = Tap({"kqv_out-1"})
    tap.steps, tap.changes = {"kqv_out-1": 1}, {"kqv_out-1": pressed}
    context = Context(weights, F16, tap)
    with pytest.raises(KeyboardInterrupt):
        context.evaluate([1, 2, 3])
    assert context.tokens == [1, 2, 3]  # they are in the cache
    tap.changes = {}
    context.evaluate([4])
    context.close()


def test_in_the_log(weights, monkeypatch):
    """While a model is loaded or a context made, where a person presses it most."""
    receive = library.log.receive

    def press_once(level, text):
        monkeypatch.setattr(library.log, "receive", receive)
        signal.raise_signal(signal.SIGINT)

    for make in (lambda: Weights(LoadOptions(demo.MODEL)), lambda: Context(weights, F16)):
        monkeypatch.setattr(library.log, "receive", press_once)
        with pytest.raises(KeyboardInterrupt):
            make()


def test_while_noise_is_measured(weights, monkeypatch):
    monkeypatch.setattr(noise, "_nudge", lambda share, values: pressed(values))
    context = noise.nudged(weights, 256, 1)
    with pytest.raises(KeyboardInterrupt):
        context.logits([1, 2, 3])
    context.close()
