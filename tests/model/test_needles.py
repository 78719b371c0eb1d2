"""Numbers planted in a text: where they stand, and what counts as found."""

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import needles
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair
from tests.support.ggufs import write_scripted


@pytest.mark.parametrize("n_ctx", [512, 2048])
def test_every_number_stands_at_its_depth(n_ctx):
    weights = Weights(LoadOptions(demo.MODEL))
    tokens = weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=True, parse_special=False)
    hay = needles.haystack(weights, tokens, n_ctx, seed=3)
    assert hay == needles.haystack(weights, tokens, n_ctx, seed=3) != needles.haystack(weights, tokens, n_ctx, seed=4)
    text = b"".join(weights.piece(token, special=True) for token in hay.tokens).decode("utf-8", "replace")
    longest = max(len(question) for _, question, _ in hay.questions)
    assert n_ctx - needles._ROOM <= len(hay.tokens) and len(hay.tokens) + longest + 8 <= n_ctx
    places = [text.index(f" is {number}.") / len(text) for _, _, number in hay.questions]
    assert places == sorted(places)
    for place, (depth, _, _) in zip(places, hay.questions):
        assert place == pytest.approx(depth, abs=0.12)
    weights.close()


def test_only_the_planted_number_is_right(tmp_path):
    path = write_scripted(tmp_path / "m.gguf", {"<one>": [" 42", " of"], "<two>": [" 17"]})
    weights = Weights(LoadOptions(path, use_extra_bufts=False))

    def words(text):
        return weights.tokenize(text, add_special=False, parse_special=True)

    hay = needles.Haystack(words("some text " * 9), [(0.5, words("<one>"), "42"), (0.9, words("<two>"), "71")])
    context = Context(weights, ContextOptions(CachePair.from_bits(8, 4), 256))
    answers = needles.ask(context, hay)
    assert [(a["said"], a["right"]) for a in answers] == [("42 of", True), ("17", False)]
    context.close()
    weights.close()
