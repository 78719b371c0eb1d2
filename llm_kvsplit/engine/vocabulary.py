"""A model's vocabulary as llguidance takes it: the bytes of each token, and which of them are text."""

from __future__ import annotations

import ctypes
import hashlib
import io
import itertools
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..errors import KvsplitError
from ..paths import cache_dir

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from .weights import Weights

#: What llguidance wants before a token that is no text (toktrie's SPECIAL_TOKEN_MARKER).
_NO_TEXT = b"\xff"
#: Reading that takes longer is remembered: 262,144 tokens take half a second.
_WORTH_KEEPING = 0.2
#: Vocabularies remembered, a MiB or two each.
_KEPT = 8


@dataclass(frozen=True)
class Vocabulary:
    #: Each token's bytes; those of a token that is no text begin with 0xFF.
    tokens: list[bytes]
    #: Tokens that end an answer.
    ends: list[int]


_made: weakref.WeakKeyDictionary[Weights, LLTokenizer] = weakref.WeakKeyDictionary()


def tokenizer(weights: Weights) -> LLTokenizer:
    """llguidance's tokenizer, made of the model's vocabulary once: a large one takes a second.

    It points into the model, and must not be used after that is freed. Raises KvsplitError for a vocabulary that
    cannot spell every text.
    """
    if weights not in _made:
        _made[weights] = _make(weights)
    return _made[weights]


def _make(weights: Weights) -> LLTokenizer:
    from llguidance import LLTokenizer

    words = read(weights)
    tokens, ends = words.tokens, words.ends
    if not ends:  # llguidance wants one, which no model will choose
        tokens, ends = [*tokens, _NO_TEXT], [len(tokens)]
    try:
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its stubs leave it out
            tokens=tokens,
            vocab_ptr=weights.vocab,
            tokenize_fptr=ctypes.cast(weights.lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=ends,
            # Slices make masks of large vocabularies in 0.2 ms instead of 3, and the tokenizer in twice the time. Few
            # masks are needed, since most tokens are right at first.
            slices=[],
        )
    except ValueError as ex:
        raise KvsplitError(
            f"An answer of this model cannot be held to a form, since its vocabulary cannot spell every text: {ex}."
        ) from ex


def read(weights: Weights) -> Vocabulary:
    """The vocabulary, from the cache where it takes time."""
    import numpy as np

    file = _file(weights.options.path)
    if file is not None:
        with suppress(OSError, ValueError, KeyError), np.load(file, allow_pickle=False) as kept:
            data, borders = kept["data"].tobytes(), kept["borders"].tolist()
            if len(borders) == weights.n_vocab + 1:
                return Vocabulary([data[a:b] for a, b in itertools.pairwise(borders)], kept["ends"].tolist())
    began = time.perf_counter()
    words = _ask(weights)
    if file is not None and time.perf_counter() - began > _WORTH_KEEPING:
        _keep(file, words)
    return words


def _ask(weights: Weights) -> Vocabulary:
    tokens, ends = [], []
    for token in range(weights.n_vocab):
        text = _piece(weights, token, False)
        tokens.append(text or _NO_TEXT + _piece(weights, token, True))
        if weights.is_end(token):
            ends.append(token)
    return Vocabulary(tokens, ends)


_buffer = ctypes.create_string_buffer(512)


def _piece(weights: Weights, token: int, special: bool) -> bytes:
    """``weights.piece`` without a buffer of its own, which is most of the time that takes."""
    size = weights.lib.llama_token_to_piece(weights.vocab, token, _buffer, len(_buffer), 0, special)
    return _buffer.raw[:size] if size >= 0 else weights.piece(token, special=special)


def _file(model: Path) -> Path | None:
    """Where the vocabulary of a model file, as it is now, is kept; None where it cannot be."""
    try:
        status = model.stat()
        name = hashlib.sha256(f"{model} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
        return cache_dir() / "vocabularies" / f"{name.hexdigest()[:32]}.npz"
    except OSError:
        return None


def _keep(file: Path, words: Vocabulary) -> None:
    import numpy as np

    borders = np.cumsum([0, *map(len, words.tokens)])
    data = np.frombuffer(b"".join(words.tokens), np.uint8)
    out = io.BytesIO()
    np.savez(out, data=data, borders=borders, ends=np.array(words.ends, np.int64))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole_bytes(file, out.getvalue())
        older = sorted(file.parent.glob("*.npz"), key=lambda f: f.stat().st_mtime)
        for each in older[:-_KEPT]:
            each.unlink(missing_ok=True)
