"""Can facts still be found in a long context? Numbers are planted at depths of a text and asked for at its end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.context import Context
from ..engine.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from ..engine.weights import Weights

#: Where in the context each number stands, as a share of it.
DEPTHS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
#: Tokens kept free for a question and its answer.
_ROOM = 48
_NAMES = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "haven", "iris", "jade", "kelp", "lotus")


@dataclass(frozen=True)
class Haystack:
    tokens: list[int]
    #: (depth, question in tokens, the number that answers it)
    questions: list[tuple[float, list[int], str]]


def haystack(weights: Weights, tokens: list[int], n_ctx: int, seed: int) -> Haystack:
    """``n_ctx`` tokens of the text with a number planted at each depth. The same seed gives the same ones."""
    chance = random.Random(seed)
    names = chance.sample(_NAMES, len(DEPTHS))
    numbers = [str(chance.randrange(10000, 100000)) for _ in DEPTHS]

    def split(text: str) -> list[int]:
        return weights.tokenize(text, add_special=False, parse_special=False)

    facts = [split(f"\nThe code of {name} is {number}.\n") for name, number in zip(names, numbers)]
    hay = tokens[: n_ctx - _ROOM - sum(map(len, facts))]
    planted: list[int] = []
    at = 0
    for depth, fact in zip(DEPTHS, facts):
        next_at = int(depth * len(hay))
        planted += [*hay[at:next_at], *fact]
        at = next_at
    planted += hay[at:]
    questions = [(d, split(f"\nThe code of {name} is"), number) for d, name, number in zip(DEPTHS, names, numbers)]
    return Haystack(planted, questions)


def ask(context: Context, hay: Haystack, done: Callable[[int], None] = lambda tokens: None) -> list[dict[str, Any]]:
    """Evaluate the haystack once, then each question behind it. An answer is right when it begins with the number."""
    weights = context.weights
    sampler = Sampler(weights, Sampling(temperature=0))
    answers = []
    try:
        context.clear()
        context.evaluate(hay.tokens, done=done)
        for depth, question, number in hay.questions:
            prompt = [*hay.tokens, *question]
            context.evaluate(prompt[context.keep_prefix(prompt) :])
            answer = b""
            for _ in range(8):
                token = sampler.sample(context)
                if weights.is_end(token):
                    break
                answer += weights.piece(token, special=False)
                context.evaluate([token])
            text = answer.decode("utf-8", "replace").strip()
            answers.append({"depth": depth, "expected": number, "said": text, "right": text.startswith(number)})
    finally:
        sampler.close()
    return answers
