"""A grammar held against a model's tokens, one after the other."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from .. import grammar
from ..deep_thread import DeepThread
from ..errors import KvsplitError
from ..grammar import Grammar
from . import vocabulary
from .weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher

#: Seconds for one step. llguidance bounds what a step costs, to some tens of milliseconds mostly.
_STEP_SECONDS = 10.0
#: A vocabulary of 262,144 tokens takes a second, more on a busy machine.
_START_SECONDS = 60.0
#: One for all, since one answer at a time is made.
_thread = DeepThread("following the grammar")


class Matcher:
    """Which tokens may come next. Making one returns at once: it is made while the prompt is evaluated.

    Its methods raise KvsplitError where the grammar costs too much, or no token of the vocabulary goes on.
    """

    def __init__(self, weights: Weights, wanted: Grammar) -> None:
        self.name = wanted.name
        self._weights = weights
        self._made: Future[LLMatcher] = _thread.start(self._make, wanted.text)
        self._known: LLMatcher | None = None

    def _make(self, text: str) -> LLMatcher:
        return grammar.matcher(vocabulary.tokenizer(self._weights), text)

    @property
    def _matcher(self) -> LLMatcher:
        if self._known is None:
            try:
                self._known = self._made.result(_START_SECONDS)
            except KvsplitError:
                raise
            except Exception as ex:  # TimeoutError, or what went wrong in llguidance
                _thread.leave()
                raise self._error(str(ex) or f"it takes more than {_START_SECONDS:g} s to prepare") from ex
            self._check()
        return self._known

    def take(self, token: int) -> bool:
        """Go on with ``token`` if it may come next; a token that ends the answer may where the answer is whole."""
        if self._weights.is_end(token):
            return self.whole
        # A single token takes microseconds, and no deep stack: a thread's turn would take longer.
        taken = self._matcher.try_consume_tokens([token])
        self._check()
        return taken == 1

    def allowed(self) -> np.ndarray:
        """The tokens that may come next, as ids; those that end the answer only where it is whole."""
        import numpy as np

        try:
            mask = _thread.call(self._matcher.compute_bitmask, seconds=_STEP_SECONDS)
        except TimeoutError as ex:
            raise self._error(f"the next token takes more than {_STEP_SECONDS:g} s") from ex
        self._check()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=self._weights.n_vocab, bitorder="little")
        tokens = np.flatnonzero(bits)
        if not len(tokens):
            raise self._error("no token of the model's vocabulary can come next")
        return tokens

    @property
    def whole(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def ended(self) -> bool:
        """Whether nothing can come any more."""
        return self._matcher.is_stopped()

    def close(self) -> None:
        """Wait until nothing reads the model's vocabulary any more."""
        wait([self._made], _START_SECONDS)

    def _check(self) -> None:
        if self._known is not None and self._known.is_error():
            raise self._error(grammar.cause(self._known.get_error()))

    def _error(self, cause: str) -> KvsplitError:
        return KvsplitError(f"The answer cannot go on by {self.name}: {cause}.")
