"""A prompt in the tokens of a cache: the same text, whatever they are, or nothing of it."""

import pytest

from llm_kvsplit import demo
from llm_kvsplit.engine.spelling import begun_with, spell
from llm_kvsplit.engine.weights import LoadOptions, Weights


@pytest.fixture(scope="module")
def weights():
    weights = Weights(LoadOptions(demo.MODEL))
    yield weights
    weights.close()


def words(weights, text):
    return weights.tokenize(text, add_special=False, parse_special=False)


def letters(weights, text):
    """As no tokenizer splits it: a token a byte."""
    return [token for letter in text for token in words(weights, letter)]


def test_the_cache_is_kept_where_it_spells_the_beginning(weights):
    cached = words(weights, "import os\n") + letters(weights, "import sys\n")
    prompt = words(weights, "import os\nimport sys\nimport json\n")
    tokens = begun_with(cached, prompt, weights)
    assert tokens[: len(cached)] == cached != prompt[: len(cached)]
    assert spell(tokens, weights) == spell(prompt, weights)


@pytest.mark.parametrize(
    "cached", ["", "import os\n", "import os\nimport json\n", "import os\nimport sys\nimport json\nand more"]
)
def test_else_the_prompt_stays_as_it_was(weights, cached):
    prompt = words(weights, "import os\nimport sys\nimport json\n")
    assert begun_with(words(weights, cached), prompt, weights) == prompt


def test_a_cache_that_ends_within_a_character(weights):
    prompt = words(weights, "naïve\n")
    half = words(weights, "ï")[:1]
    assert spell(half, weights) == "ï".encode()[:1]
    assert begun_with(letters(weights, "na") + half, prompt, weights) == prompt


def test_a_control_token_is_not_the_text_that_spells_it(weights):
    end = weights.tokenize(weights.eos, add_special=False, parse_special=True)
    prompt = [*words(weights, "import os\n"), *end, *words(weights, "import sys\n")]
    cached = [*letters(weights, "import os\n"), *letters(weights, weights.eos)]
    assert begun_with(cached, prompt, weights) == prompt
    own = [*letters(weights, "import os\n"), *end]
    assert begun_with(own, prompt, weights) == [*own, *words(weights, "import sys\n")]
    before = letters(weights, "import ")
    assert begun_with(before, prompt, weights)[-len(prompt[-4:]) :] == prompt[-4:]
