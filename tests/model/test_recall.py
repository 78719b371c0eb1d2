"""A restored state is the one that was stored, to the last bit, and gives the same answer."""

import json

import numpy as np
import pytest

from llm_kvsplit import demo, registry
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair
from llm_kvsplit.sessions import recall, states
from tests.support.ggufs import CHAT, write_gemma2, write_lfm2, write_llama, write_mamba, write_scripted


def demo_model(_folder):
    return demo.MODEL


def random_llama(folder):
    return write_llama(folder / "llama.gguf", n_layer=3, n_head=4, n_head_kv=1, n_embd=256)


def sliding_window(folder):
    return write_gemma2(folder / "gemma2.gguf", window=64)


def recurrent(folder):
    return write_mamba(folder / "mamba.gguf")


def hybrid(folder):
    return write_lfm2(folder / "lfm2.gguf")


MODELS = [demo_model, random_llama, sliding_window, recurrent, hybrid]
PAIRS = [(16, 16), (8, 8), (8, 4), (4, 8)]


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__, scope="module")
def weights(request, tmp_path_factory):
    weights = Weights(LoadOptions(request.param(tmp_path_factory.mktemp("model"))))
    yield weights
    weights.close()


def greedy(context, tokens, n=12):
    """Continue ``tokens`` as an answer does; the tokens chosen and the logits they were chosen from."""
    reused = context.keep_prefix(tokens)
    context.evaluate(tokens[reused:])
    chosen, logits = [], []
    for _ in range(n):
        row = context.lib.llama_get_logits(context.pointer)
        logits.append(np.ctypeslib.as_array(row, (context.weights.n_vocab,)).copy())
        chosen.append(int(logits[-1].argmax()))
        context.evaluate(chosen[-1:])
    return chosen, np.array(logits), reused


def text_tokens(weights, n):
    text = demo.SMOKE_TEXT.read_text()
    return weights.tokenize(text[: 8 * n + 64], add_special=False, parse_special=False)[:n]


@pytest.mark.parametrize("length", [40, 300, 1200])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"K{pair[0]}V{pair[1]}")
def test_the_next_turn_is_the_same(weights, user_path, pair, length):
    """Turn two in a new context from the stored state, against turn two in the context that answered turn one."""
    options = ContextOptions(CachePair.from_bits(*pair), 2048, n_threads=2)
    first = text_tokens(weights, length)
    lived, restored = Context(weights, options), Context(weights, options)
    try:
        answer, _, _ = greedy(lived, first)
        assert recall.deferred_save(lived, "m", "c")() is not None
        second = first + answer + text_tokens(weights, 30)
        found = recall.find(weights, options, second, 2048)
        assert recall.restore(restored, found, second)
        assert restored.tokens == lived.tokens
        np.testing.assert_array_equal(restored.state(), lived.state())
        # A window's cells stand elsewhere in the new context, and their sums are rounded in another order, with other
        # neighbours where a CPU multiplies bytes. The caches' own rounding moves these logits by up to 0.2.
        tolerance = 1e-2 if weights.n_swa else 0
        (chosen, logits, reused), (expected, expected_logits, as_many) = greedy(restored, second), greedy(lived, second)
        assert (chosen, reused) == (expected, as_many)
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=tolerance)
    finally:
        lived.close()
        restored.close()


@pytest.mark.parametrize("pair", [(16, 16), (8, 4)], ids=lambda pair: f"K{pair[0]}V{pair[1]}")
def test_a_branch_reuses_what_it_can_or_starts_anew(weights, user_path, pair):
    """An edited conversation: the state's tail is dropped where the architecture can, and never wrongly."""
    options = ContextOptions(CachePair.from_bits(*pair), 2048, n_threads=2)
    tokens = text_tokens(weights, 400)
    lived, restored, fresh = (Context(weights, options) for _ in range(3))
    try:
        greedy(lived, tokens)
        assert recall.deferred_save(lived, "m", "c")() is not None
        branch = tokens[:256] + tokens[300:340]
        found = recall.find(weights, options, branch, 2048)
        assert found[1] >= 256
        assert recall.restore(restored, found, branch)
        chosen, logits, reused = greedy(restored, branch)
        # From nothing, in the same batches.
        fresh.evaluate(branch[:reused])
        expected, expected_logits, _ = greedy(fresh, branch)
        assert chosen == expected
        np.testing.assert_allclose(logits, expected_logits, atol=2e-3)
    finally:
        for context in (lived, restored, fresh):
            context.close()


def test_a_window_that_has_moved_on_is_not_gone_back_to(user_path, tmp_path):
    """A branch from before what the sliding window still holds: computed anew."""
    weights = Weights(LoadOptions(sliding_window(tmp_path)))
    options = ContextOptions(CachePair.from_bits(8, 4), 2048, n_threads=2)
    tokens = text_tokens(weights, 1600)
    lived, restored, fresh = (Context(weights, options) for _ in range(3))
    try:
        lived.evaluate(tokens)
        assert recall.deferred_save(lived, "m", "c")() is not None
        branch = tokens[:256] + tokens[300:340]
        found = recall.find(weights, options, branch, 2048)
        assert recall.restore(restored, found, branch)
        chosen, logits, reused = greedy(restored, branch)
        assert reused == 0
        expected, expected_logits, _ = greedy(fresh, branch)
        assert chosen == expected
        np.testing.assert_array_equal(logits, expected_logits)
    finally:
        for context in (lived, restored, fresh):
            context.close()
        weights.close()


def test_another_model_another_type_another_setting_finds_nothing(user_path, tmp_path):
    weights = Weights(LoadOptions(demo.MODEL))
    other = Weights(LoadOptions(write_llama(tmp_path / "other.gguf")))
    options = ContextOptions(CachePair.from_bits(8, 4), 512)
    context = Context(weights, options)
    tokens = text_tokens(weights, 100)
    try:
        context.evaluate(tokens)
        recall.deferred_save(context, "m", "c")()
        assert recall.find(weights, options, tokens, 512)
        assert not recall.find(other, options, tokens, 512)
        for changed in (
            ContextOptions(CachePair.from_bits(4, 8), 512),
            ContextOptions(CachePair.from_bits(8, 8), 512),
            ContextOptions(CachePair.from_bits(8, 4), 512, flash_attn=True),
        ):
            assert not recall.find(weights, changed, tokens, 512)
    finally:
        context.close()
        weights.close()
        other.close()


def test_rotation_is_part_of_the_key(user_path, monkeypatch):
    weights = Weights(LoadOptions(demo.MODEL))
    options = ContextOptions(CachePair.from_bits(8, 4), 512)
    context = Context(weights, options)
    tokens = text_tokens(weights, 100)
    try:
        context.evaluate(tokens)
        recall.deferred_save(context, "m", "c")()
        monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
        assert not recall.find(weights, options, tokens, 512)
    finally:
        context.close()
        weights.close()


def test_a_model_that_changed_is_another_model(user_path, tmp_path):
    path = write_llama(tmp_path / "m.gguf", seed=1)
    weights = Weights(LoadOptions(path))
    options = ContextOptions(CachePair.from_bits(8, 4), 512)
    context = Context(weights, options)
    tokens = text_tokens(weights, 100)
    context.evaluate(tokens)
    recall.deferred_save(context, "m", "c")()
    assert recall.find(weights, options, tokens, 512)
    write_llama(path, seed=2)
    assert not recall.find(weights, options, tokens, 512)
    context.close()
    weights.close()


# Through llm's command line


@pytest.fixture
def book(tmp_path, user_path):
    path = write_scripted(
        tmp_path / "reciter.gguf", {"<answer>": ["Certainly", ", ", "yes."]}, chat_template=CHAT, n_ctx=4096
    )
    registry.add(registry.Entry("reader", path, kv_key_bits=8, kv_value_bits=4))
    (tmp_path / "book.txt").write_text("It was a dark and stormy night. " * 60)
    return tmp_path / "book.txt"


def session(logged):
    response = logged()["response_json"]
    return response["session"], response["reused_tokens"], response["prompt_tokens"]


@pytest.mark.feature("state")
def test_continuing_in_another_process_starts_from_the_stored_state(llm, logged, book):
    llm("-m", "reader", "-f", str(book), "Is it?")
    first, reused, n = session(logged)
    assert reused == 0 and first["restored_tokens"] == 0 and first["saved_bytes"] > 0
    assert llm("-c", "And then?").stdout == "Certainly, yes.\n"
    second, reused, _ = session(logged)
    assert second["restored_tokens"] == reused >= n - 1 and second["restored_seconds"] > 0


def test_two_questions_about_one_book(llm, logged, book):
    """Different conversations: found by the tokens, not by the conversation."""
    llm("-m", "reader", "-f", str(book), "q1 is this?")
    llm("-m", "reader", "-f", str(book), "q2 is that?")
    report, _, n = session(logged)
    assert report["restored_tokens"] > 1900 and report["restored_tokens"] < n


@pytest.mark.parametrize("how", [("--no-log",), ("-o", "kv_sessions", "false")])
def test_nothing_is_stored_when_nothing_is_to_be(llm, book, how):
    llm("-m", "reader", *how, "-f", str(book), "Is it?")
    assert states.state_files() == []


def test_nothing_is_stored_with_logging_off(llm, book):
    llm("logs", "off")
    llm("-m", "reader", "-f", str(book), "Is it?")
    assert states.state_files() == []
    llm("-m", "reader", "--log", "-f", str(book), "Is it?")
    assert len(states.state_files()) == 1


def test_an_answer_that_is_not_streamed_is_stored_too(llm, book):
    llm("-m", "reader", "--no-stream", "-f", str(book), "Is it?")
    assert len(states.state_files()) == 1


def test_the_commands(llm, book, logged):
    llm("-m", "reader", "-f", str(book), "Is it?")
    conversation = logged()["conversation_id"]
    listed = llm("kvsplit", "sessions", "list").stdout
    assert conversation in listed and "q8_0/iq4_nl" in listed
    shown = llm("kvsplit", "sessions", "show", conversation).stdout
    assert "reader, SHA-256" in shown
    (path,) = states.state_files()
    assert str(path) in shown
    assert llm("kvsplit", "sessions", "path").stdout.strip() == str(states.folder())
    assert "of 9.31 GiB used" in llm("kvsplit", "sessions", "budget", "10GB").stdout
    assert "Removed 1 stored state." in llm("kvsplit", "sessions", "clear").stdout
    assert states.state_files() == []


def test_the_size_is_the_arithmetic(llm, book, logged):
    llm("-m", "reader", "-f", str(book), "Is it?")
    response = logged()["response_json"]
    per_token = response["kv_cache"]["bytes"] / response["kv_cache"]["n_ctx"]
    n = len(next(states.sessions()).tokens)
    assert response["session"]["saved_bytes"] == pytest.approx(n * per_token, rel=0.05)
    assert json.dumps(response)
