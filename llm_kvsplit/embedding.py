"""Texts in, vectors out: the plugin's EmbeddingModel, around ``engine/embedder.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import llm

if TYPE_CHECKING:
    from .registry import Entry


class KvsplitEmbeddingModel(llm.EmbeddingModel):
    #: Texts that are evaluated together, as far as they fit.
    batch_size = 64

    def __init__(self, entry: Entry) -> None:
        self.model_id = entry.name
        self.entry = entry

    def __str__(self) -> str:
        return f"KV split: {self.model_id}"

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """A vector of length 1 for each text. Raises KvsplitError.

        A text that is longer than the model takes is cut, and a line on stderr says so: one long file among many
        must not end 'llm embed-multi'.
        """
        # Imported here, since llm imports every plugin for every command.
        from . import gguf
        from .builds import choice
        from .engine import embedder, loaded
        from .engine.weights import LoadOptions
        from .errors import KvsplitError

        if reason := gguf.no_embeddings(gguf.read(self.entry.path)):
            raise KvsplitError(f"{self.entry.path} is {reason}.")
        n_gpu_layers = -1 if self.entry.n_gpu_layers is None else self.entry.n_gpu_layers
        with loaded.exclusive():
            weights = loaded.weights(LoadOptions(self.entry.path, n_gpu_layers, choice.extra_bufts()))
            limit = self.entry.n_ctx or weights.n_ctx_train
            texts = [embedder.tokens(weights, item if isinstance(item, str) else item.decode()) for item in items]
            if longer := sum(len(text) > limit for text in texts):
                print(
                    f"{longer} of {len(texts)} texts cut to the {limit} tokens that {self.model_id} takes.",
                    file=sys.stderr,
                )
            for vector in embedder.vectors(weights, [embedder.cut(weights, text, limit) for text in texts]):
                yield vector.tolist()
