"""How fast a cache is filled and read, measured as llama-bench does: with given tokens, without sampling."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ..engine.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Tokens generated after the prompt.
GENERATED = 32
#: Tokens evaluated, and forgotten, before the clock starts.
_WARM_UP = 16


@dataclass(frozen=True)
class Timing:
    """One run. The prompt is evaluated from nothing, its last batch stands at depth, and generation follows it."""

    prompt_tokens: int
    prompt_seconds: float
    last_batch_tokens: int
    last_batch_seconds: float
    generated_tokens: int
    generated_seconds: float

    def rates(self) -> dict[str, float]:
        """Tokens/s of the whole prompt, of its last batch at depth, and of generation behind it."""
        return {
            "prompt_tps": self.prompt_tokens / self.prompt_seconds,
            "last_batch_tps": self.last_batch_tokens / self.last_batch_seconds,
            "generation_tps": self.generated_tokens / self.generated_seconds,
        }


def run(context: Context, tokens: list[int], done: Callable[[int], None] = lambda tokens: None) -> Timing:
    """Fill the empty ``context`` with all of ``tokens``, the last GENERATED one at a time."""
    context.evaluate(tokens[:_WARM_UP])
    context.evaluate(tokens[:1])
    context.clear()
    prompt, generated = tokens[:-GENERATED], tokens[-GENERATED:]
    clock = _Clock(context)
    for start in range(0, len(prompt), 512):
        part = prompt[start : start + 512]
        last = clock.evaluate(part)
        done(len(part))
    prompt_seconds = clock.total
    clock = _Clock(context)
    for token in generated:
        clock.evaluate([token])
        done(1)
    return Timing(len(prompt), prompt_seconds, len(part), last, len(generated), clock.total)


class _Clock:
    """Adds up the time in llama.cpp. A GPU works on after ``evaluate`` has returned, so the clock waits for it."""

    def __init__(self, context: Context) -> None:
        self.context, self.total = context, 0.0

    def evaluate(self, tokens: list[int]) -> float:
        """Append ``tokens``, and return the seconds that it took."""
        started = time.perf_counter()
        self.context.evaluate(tokens)
        self.context.synchronize()
        seconds = time.perf_counter() - started
        self.total += seconds
        return seconds


def spread(values: Iterable[float]) -> list[float]:
    """[median, smallest, largest]."""
    ordered = sorted(values)
    return [median(ordered), ordered[0], ordered[-1]]
