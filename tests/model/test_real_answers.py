"""What a chat model that others trained says with each cache: facts that it knows, and numbers in a long text."""

import re

import llm
import pytest

from llm_kvsplit import demo
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
        # One thread: two that wait for each other a thousand times a token are slow where others have the cores.
        bits = {"kv_key_bits": key_bits, "kv_value_bits": value_bits}
        return model.prompt(question, **bits, temperature=0, max_tokens=24, n_threads=1).text()

    yield answer
    loaded.close()


@pytest.mark.parametrize(("key_bits", "value_bits"), [(16, 16), (8, 8), (8, 4), (4, 8)])
def test_it_answers_what_it_knows(ask, key_bits, value_bits):
    answers = {question: ask(question, key_bits, value_bits) for question in KNOWN}
    wrong = {q: answers[q] for q, word in KNOWN.items() if not re.search(rf"\b{word}", answers[q], re.IGNORECASE)}
    print(f"K{key_bits}V{value_bits}: {len(KNOWN) - len(wrong)} of {len(KNOWN)} right; wrong: {wrong}")
    assert len(wrong) <= 3


NEEDLES = [
    ("The secret password is 48215.", "What is the secret password?", "48215"),
    ("Captain Morgan's favourite fruit is the mango.", "What is Captain Morgan's favourite fruit?", "mango"),
    ("The name of the lighthouse keeper is Ferdinand.", "What is the name of the lighthouse keeper?", "Ferdinand"),
    ("The birthday of the queen is 17 November.", "What is the birthday of the queen?", "17 November"),
    ("The phone number of the bakery is 555-7391.", "What is the phone number of the bakery?", "555-7391"),
    ("The capital of Atlantis is Poseidonia.", "What is the capital of Atlantis?", "Poseidonia"),
]


def haystack(n: int) -> str:
    """Modules of Python's standard library with the first ``n`` needles, each amid 1300 tokens or so."""
    code, size = demo.SMOKE_TEXT.read_text(), 5400
    pieces = [code[i * size : (i + 1) * size] for i in range(n)]
    return "".join(f"{a[: size // 2]}\n\n{fact}\n\n{a[size // 2 :]}" for a, (fact, _, _) in zip(pieces, NEEDLES))


@pytest.mark.parametrize(("key_bits", "value_bits"), [(16, 16), (8, 4)])
def test_it_finds_what_a_long_text_says(smol, key_bits, value_bits):
    """A third of it, since the model itself overlooks some (f16: 3 of 3, 4 of 6); nothing of it without the text."""
    model = llm.get_model("smol")
    options = {"kv_key_bits": key_bits, "kv_value_bits": value_bits, "temperature": 0, "max_tokens": 16, "n_threads": 1}
    for planted, tokens in ((0, 0), (3, 4000), (6, 8000)):
        text = haystack(planted)
        answers = [model.prompt(f"{text}\n\n{question}", **options) for _, question, _ in NEEDLES[: planted or 6]]
        right = [needle in answer.text() for answer, (_, _, needle) in zip(answers, NEEDLES)]
        n = answers[0].usage().input
        print(f"K{key_bits}V{value_bits}, {n} tokens: {right}", *(answer.text() for answer in answers), sep="\n  ")
        assert n == pytest.approx(tokens, rel=0.05, abs=60)
        assert sum(right) >= planted / 3 if planted else not any(right)
    loaded.close()
