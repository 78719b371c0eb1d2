"""Vectors of texts, from a model that was trained to give them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import machine
from ..errors import KvsplitError
from . import library
from .context import PADDING
from .weights import Weights

if TYPE_CHECKING:
    import numpy as np

#: Tokens that are evaluated at once; a longer text is evaluated by itself.
BATCH = 2048
#: Texts in a batch (llama.h: LLAMA_MAX_SEQ is 256).
SEQUENCES = 64

# enum llama_pooling_type in llama.h
_NONE, _MEAN = 0, 1


def tokens(weights: Weights, text: str) -> list[int]:
    """Its tokens, with those that the model wants around a text. Raises KvsplitError for a text without any."""
    if ids := weights.tokenize(text, add_special=True, parse_special=False):
        return ids
    raise KvsplitError("A text without tokens has no vector: leave out what is empty.")


def vectors(weights: Weights, texts: list[list[int]]) -> Iterator[np.ndarray]:
    """The vector of each text, in order: float32, shape (n_embd,), of length 1.

    ``texts`` are tokens. Raises KvsplitError when llama.cpp refuses.
    """
    with _Context(weights, max(map(len, texts), default=0)) as context:
        for batch in _batches(texts, context.n_tokens):
            yield from context.vectors(batch)


def cut(weights: Weights, tokens: list[int], limit: int) -> list[int]:
    """The first ``limit`` tokens; of a longer text, the one that the model wants at its end stays the last."""
    if len(tokens) <= limit:
        return tokens
    lib, vocab = weights.lib, weights.vocab
    closing = tokens[-1] if tokens[-1] in (lib.llama_vocab_sep(vocab), lib.llama_vocab_eos(vocab)) else None
    return tokens[:limit] if closing is None else [*tokens[: limit - 1], closing]


def _batches(texts: list[list[int]], n_tokens: int) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for text in texts:
        if batch and (len(batch) == SEQUENCES or sum(map(len, batch)) + len(text) > n_tokens):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


class _Context:
    """llama.cpp's context for whole texts of at most ``longest`` tokens, several of them a batch."""

    def __init__(self, weights: Weights, longest: int) -> None:
        self.weights, self.lib = weights, weights.lib
        self.n_tokens = -(-max(longest, BATCH) // PADDING) * PADDING
        self._open(pooling=None)
        if self.lib.llama_pooling_type(self.pointer) == _NONE:
            # The file does not say. The mean of all tokens is what most such models were trained with.
            self.close()
            self._open(_MEAN)

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open(self, pooling: int | None) -> None:
        params = self.lib.llama_context_default_params()
        params.embeddings = True
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_tokens  # a text is pooled within one micro-batch
        params.n_seq_max = SEQUENCES
        params.kv_unified = True  # the texts of a batch share the room, whatever their lengths
        params.n_threads = params.n_threads_batch = machine.physical_cores()
        if pooling is not None:
            params.pooling_type = pooling
        with library.log.capture() as lines:
            self.pointer = self.lib.llama_init_from_model(self.weights.pointer, params)
        if not self.pointer:
            cause = library.error_text(lines) or "llama.cpp gave no reason"
            raise KvsplitError(f"{self.weights.options.path} cannot embed texts of {self.n_tokens} tokens: {cause}.")

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_free(self.pointer)
            self.pointer = None

    def vectors(self, texts: list[list[int]]) -> Iterator[np.ndarray]:
        """The vector of each text of one batch."""
        import numpy as np

        batch = self.lib.llama_batch_init(sum(map(len, texts)), 0, 1)
        try:
            for sequence, text in enumerate(texts):
                for position, token in enumerate(text):
                    i = batch.n_tokens
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                    batch.seq_id[i][0], batch.logits[i] = sequence, True
                    batch.n_tokens += 1
            if memory := self.lib.llama_get_memory(self.pointer):
                self.lib.llama_memory_clear(memory, True)
            with library.log.capture() as lines:
                status = self.lib.llama_decode(self.pointer, batch)
        finally:
            self.lib.llama_batch_free(batch)
        if status != 0:
            raise KvsplitError(f"llama.cpp could not embed {len(texts)} texts: {library.error_text(lines) or status}.")
        for sequence in range(len(texts)):
            values = self.lib.llama_get_embeddings_seq(self.pointer, sequence)
            if not values:
                raise KvsplitError(f"llama.cpp has no vector for text {sequence + 1} of {len(texts)}: report it.")
            vector = np.ctypeslib.as_array(values, (self._width(),)).astype(np.float32)
            length = float(np.linalg.norm(vector))
            if not np.isfinite(length) or length == 0:
                raise KvsplitError("The model gives a vector without a direction: its file may be damaged.")
            yield vector / np.float32(length)

    def _width(self) -> int:
        return self.lib.llama_model_n_embd_out(self.weights.pointer)
