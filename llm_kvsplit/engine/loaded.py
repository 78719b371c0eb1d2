"""The one model this process holds, so that a chat does not load it again for each turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..errors import KvsplitError
from .context import Context, ContextOptions
from .projector import Projector, ProjectorOptions
from .weights import LoadOptions, Weights

_lock = threading.Lock()
_owner: int | None = None


@contextmanager
def exclusive() -> Iterator[None]:
    """Held for the length of an answer, since a KV cache holds one conversation. Other threads wait.

    Raises KvsplitError when this very thread is in the middle of another answer, which waiting would never end.
    """
    global _owner
    me = threading.get_ident()
    if _owner == me:
        raise KvsplitError("Another answer is still being read in this thread: read it to its end first.")
    with _lock:
        _owner = me
        try:
            yield
        finally:
            _owner = None


@dataclass
class _Loaded:
    weights: Weights
    context: Context | None = None
    projector: Projector | None = None

    def close(self) -> None:
        self.close_context()
        self.close_projector()
        self.weights.close()

    def close_projector(self) -> None:
        if self.projector is not None:
            self.projector.close()
            self.projector = None

    def close_context(self) -> None:
        if self.context is not None:
            self.context.close()
            self.context = None


_loaded: _Loaded | None = None


def weights(options: LoadOptions) -> Weights:
    """The model's weights, loaded unless they are already; another model's are freed first."""
    global _loaded
    if _loaded is None or _loaded.weights.options != options or _loaded.weights.lost:
        close()
        _loaded = _Loaded(Weights(options))
    return _loaded.weights


def projector(options: ProjectorOptions) -> Projector:
    """The loaded model's projector, loaded unless it is already. Raises as ``Projector`` does."""
    assert _loaded is not None, "weights() comes first"
    present = _loaded.projector
    if present is None or present.options != options:
        _loaded.close_projector()
        present = _loaded.projector = Projector(_loaded.weights, options)
    return present


def is_reusable(options: ContextOptions, *, may_grow: bool) -> bool:
    """Whether the present context can be used as it is.

    ``may_grow``: one larger than asked for can be, too, and keeps what it holds.
    """
    present = _present()
    if present is None or replace(present.options, n_ctx=options.n_ctx) != options:
        return False
    return present.options.n_ctx == options.n_ctx or (may_grow and present.n_ctx >= options.n_ctx)


def context(options: ContextOptions, *, may_grow: bool) -> Context:
    """A context on the loaded weights: the present one if it can be used, grown if only its size is too small."""
    assert _loaded is not None, "weights() comes first"
    present = _present()
    if present is not None and is_reusable(options, may_grow=may_grow):
        return present
    if present is not None and may_grow and replace(present.options, n_ctx=options.n_ctx) == options:
        present.grow(options.n_ctx)
        return present
    _loaded.close_context()
    _loaded.context = Context(_loaded.weights, options)
    return _loaded.context


def tokens() -> list[int]:
    """What the present context holds; nothing where there is none."""
    present = _present()
    return list(present.tokens) if present is not None else []


def _present() -> Context | None:
    return _loaded.context if _loaded is not None else None


def close() -> None:
    """Free the model. Safe to call at any time that no answer is being generated."""
    global _loaded
    if _loaded is not None:
        _loaded.close()
        _loaded = None
