"""What a chat model that others trained says with each cache: facts that it knows, and numbers in a long text."""

import re

import llm
import pytest

from llm_kvsplit.engine import loaded

#: Of 93 such questions those that SmolLM2-135M-Instruct answered rightly with an f16 cache whatever the dice: greedily
#: and with each of the seeds 0 to 7 at the default temperature, in 32 tokens. (One that "A" answers is left out, since
#: most sentences have that word.) So a wrong answer is the cache's doing, or chance that the model's own answers rarely
#: show; what it does not know, such as the capital of France, says nothing of a cache.
KNOWN = {
    "Who developed the theory of relativity?": "Einstein",
    "What is the opposite of hot?": "cold",
    "What is the longest river in Africa?": "Nile",
    "What is the largest desert in Africa?": "Sahara",
    "What is the chemical symbol for water?": "H2O",
    "What is the capital of the United Kingdom?": "London",
    "What is the capital of Egypt?": "Cairo",
    "What gas do humans need to breathe?": "oxygen",
    "What currency is used in the United States?": "dollar",
    "Name the three primary colors.": "red",
    "In which country is the Eiffel Tower?": "France",
    "In which country are the pyramids of Giza?": "Egypt",
    "How many days are in a week?": "7",
}


@pytest.fixture
def ask(smol):
    """Greedily, in this process."""
    model = llm.get_model("smol")

    def answer(question: str, key_bits: int, value_bits: int) -> str:
        options = {"kv_key_bits": key_bits, "kv_value_bits": value_bits, "temperature": 0, "max_tokens": 24}
        return model.prompt(question, **options).text()

    yield answer
    loaded.close()


@pytest.mark.parametrize(("key_bits", "value_bits"), [(16, 16), (8, 8), (8, 4), (4, 8)])
def test_it_answers_what_it_knows(ask, key_bits, value_bits):
    answers = {question: ask(question, key_bits, value_bits) for question in KNOWN}
    wrong = {q: answers[q] for q, word in KNOWN.items() if not re.search(rf"\b{word}", answers[q], re.IGNORECASE)}
    print(f"K{key_bits}V{value_bits}: {len(KNOWN) - len(wrong)} of {len(KNOWN)} right; wrong: {wrong}")
    assert len(wrong) <= 3
