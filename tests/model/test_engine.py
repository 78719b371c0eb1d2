"""The KV cache is kept, cut and grown without changing what comes out."""

import numpy as np
import pytest

from llm_kvsplit import demo
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.generate import Outcome, Request, generate
from llm_kvsplit.engine.sampling import Sampling
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair
from tests.support.ggufs import write_lfm2, write_llama, write_mamba

GREEDY = Sampling(temperature=0)
PAIRS = [(16, 16), (8, 4), (4, 8)]


@pytest.fixture(scope="module")
def weights():
    weights = Weights(LoadOptions(demo.MODEL))
    yield weights
    weights.close()


@pytest.fixture
def open_context(weights):
    opened = []

    def make(pair=(8, 4), n_ctx=512):
        opened.append(Context(weights, ContextOptions(CachePair.from_bits(*pair), n_ctx)))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def tokens(weights):
    return weights.tokenize(demo.SMOKE_TEXT.read_text()[:20000], add_special=False, parse_special=False)


def answer(context, tokens, n=24, limit=2048):
    outcome = Outcome()
    request = Request(tokens, GREEDY, max_tokens=n, n_ctx_limit=limit)
    return "".join(generate(context, request, outcome)), outcome


def logits(context):
    pointer = context.lib.llama_get_logits(context.pointer)
    return np.ctypeslib.as_array(pointer, (context.weights.n_vocab,)).copy()


def test_tokens_and_text_are_inverse(weights):
    text = demo.SMOKE_TEXT.read_text()[:5000] + "äöü 漢字 🙂\n"
    tokens = weights.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(weights.piece(token, special=False) for token in tokens).decode() == text


@pytest.mark.parametrize("pair", PAIRS)
def test_growing_keeps_the_state(open_context, tokens, pair):
    small, large = open_context(pair, 256), open_context(pair, 1024)
    for context in (small, large):
        context.evaluate(tokens[:250])
    before = logits(small)
    small.grow(1024)
    assert (small.n_ctx, small.tokens) == (1024, tokens[:250])
    assert small.kv_size == large.kv_size
    for context in (small, large):
        context.evaluate(tokens[250:251])
    np.testing.assert_array_equal(logits(small), logits(large))
    assert not np.array_equal(before, logits(small))


def test_an_answer_grows_the_context_as_it_needs(open_context, tokens):
    text, outcome = answer(open_context(n_ctx=256), tokens[:100], n=600)
    expected, whole = answer(open_context(n_ctx=1024), tokens[:100], n=600)
    assert text == expected
    assert outcome.grown_to and not whole.grown_to


def test_an_answer_ends_where_the_context_may_grow_no_more(open_context, tokens):
    _, outcome = answer(open_context(n_ctx=256), tokens[:200], n=400, limit=256)
    assert outcome.finish_reason in ("length", "stop")
    assert outcome.prompt_tokens + outcome.completion_tokens <= 257


@pytest.mark.parametrize("pair", PAIRS)
def test_a_branched_prompt_reuses_what_is_common(open_context, tokens, pair):
    """The rest is evaluated as one batch in both cases, so the answers are the same to the token."""
    reused = open_context(pair)
    answer(reused, tokens[:300])
    branch = tokens[:200] + tokens[400:440]
    text, outcome = answer(reused, branch)
    assert outcome.reused_tokens == 200
    fresh = open_context(pair)
    fresh.evaluate(branch[:200])
    assert text == answer(fresh, branch)[0]


def test_the_same_prompt_again_evaluates_one_token(open_context, tokens):
    """Against 49 tokens and then one, since sums of another batch are rounded in another order."""
    context = open_context()
    answer(context, tokens[:50])
    again, outcome = answer(context, tokens[:50])
    assert outcome.reused_tokens == 49
    fresh = open_context()
    fresh.evaluate(tokens[:49])
    assert again == answer(fresh, tokens[:50])[0]


@pytest.mark.parametrize("write", [write_llama, write_mamba, write_lfm2], ids=lambda write: write.__name__)
def test_a_prompt_is_stopped_within_a_batch(tmp_path, write):
    """As by Ctrl-C: a batch of a large model takes many seconds. What was computed of it leaves no trace."""
    weights = Weights(LoadOptions(write(tmp_path / "m.gguf"), use_extra_bufts=False))
    options = ContextOptions(CachePair.from_bits(16, 16), 512, n_threads=1)
    prompt = [i % 200 for i in range(1, 301)]
    context, fresh = Context(weights, options), Context(weights, options)
    try:
        context.evaluate(prompt[:100])
        asked = 0

        def stopped() -> bool:
            nonlocal asked
            asked += 1
            return asked > 5

        context.evaluate(prompt[100:], stopped)
        assert asked == 6  # once before the batch, and then between a few of its operations
        assert context.tokens in (prompt[:100], [])  # a recurrent state cannot go back: it is computed anew
        context.evaluate(prompt[len(context.tokens) : -1])
        fresh.evaluate(prompt[:100])
        fresh.evaluate(prompt[100:-1])
        ours, expected = context.logits(prompt[-1:]), fresh.logits(prompt[-1:])
        assert np.abs(ours - expected).max() < 1e-3 * np.abs(expected).max()
    finally:
        context.close()
        fresh.close()
        weights.close()
