"""The tokens that a header wants around a text: one BOS token before a prompt, and EOS behind a text that ends."""

import pytest

from llm_kvsplit.chat import render
from llm_kvsplit.chat.tokens import tokens
from llm_kvsplit.engine import embedder
from llm_kvsplit.engine.weights import LoadOptions, Weights
from tests.support.chats import say
from tests.support.ggufs import write_llama

#: ``<eos>``, which these models have for both.
EDGE = 256


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    made = Weights(LoadOptions(write_llama(tmp_path_factory.mktemp("m") / "edges.gguf", add_bos=True, add_eos=True)))
    yield made
    made.close()


@pytest.mark.parametrize(
    "template",
    ["{{ m }}", "{{ bos_token }}{{ m }}", " {{ bos_token }}{{ m }}", "\n\t{{ bos_token }}{{ m }}", "<eos>{{ m }}"],
)
def test_a_prompt_has_one_bos_token_and_no_eos_token(weights, template):
    rendered = render([say("user", "hi")], template.replace("m }}", "messages[0].content }}"), bos=weights.bos)
    assert tokens(rendered, weights).count(EDGE) == 1
    assert weights.piece(tokens(rendered, weights)[-1], special=True) == b"i"


def test_a_bos_token_in_a_question_is_text_unless_the_prompt_is_raw(weights):
    for template in (None, "{{ messages[0].content }}"):
        rendered = render([say("user", " <eos>hi")], template, bos=weights.bos)
        assert tokens(rendered, weights).count(EDGE) == 1
        assert len(tokens(rendered, weights)) == 1 + len(" <eos>hi")
        raw = tokens(rendered, weights, raw=True)
        assert raw.count(EDGE) == 1
        assert len(raw) == 1 + len(" hi")


def test_a_text_to_embed_has_what_llama_cpp_puts_around_it(weights):
    ids = embedder.tokens(weights, "hi")
    assert (ids[0], ids[-1], len(ids)) == (EDGE, EDGE, 4)
    assert embedder.cut(weights, embedder.tokens(weights, "a long text"), 5)[-1] == EDGE
