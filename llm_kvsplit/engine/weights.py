"""A loaded GGUF: its weights and its vocabulary."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .. import deep_thread, gguf, progress
from ..errors import KvsplitError
from . import library, log_lines, servers

#: llama.cpp splits a text into words by regular expressions, and GCC's std::regex recurses for each character of a match:
#: about 350 bytes a letter (unicode_regex_split_stl in unicode.cpp). So a word of 30,000 letters overflows the usual 8 MiB.
#: Bytes of stack for a byte of text, thrice what was seen. Only what is used takes memory.
_STACK_EACH = 1024
#: Bytes of text that any stack has room for: a thread's has 512 KiB on a Mac.
_SHALLOW = 1000

_T = TypeVar("_T")


@dataclass(frozen=True)
class LoadOptions:
    """What must be the same for a loaded model to be used again."""

    path: Path
    #: Layers on the GPU; -1 means all of them.
    n_gpu_layers: int = -1
    #: Off where the library's AMX path dies (see ``probe``).
    use_extra_bufts: bool = True
    #: Read the header alone and pretend: contexts say what they would allocate, and compute nothing.
    simulate: bool = False
    #: Other machines that hold layers, as "host:port".
    servers: tuple[str, ...] = ()


class LoadError(KvsplitError):
    """llama.cpp cannot load the file; ``cause`` is its own words."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(
            f"{path} could not be loaded: {cause}. Run 'llm kvsplit info {path}' to see what the file holds."
        )
        self.cause = cause


class Weights:
    """llama.cpp's model. ``close()`` frees it; the contexts on it must be closed before.

    Raises LoadError when the file cannot be loaded.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        self.lib = library.load()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = options.n_gpu_layers
        params.use_extra_bufts = options.use_extra_bufts
        if options.simulate:
            # As llama.cpp's own memory fitting does (common/fit.cpp).
            params.no_alloc, params.load_mode = True, self.lib.LLAMA_LOAD_MODE_NONE
        if options.servers:
            params.devices = servers.pointers(options.servers)
        with _sending(options) as go_on, library.log.capture() as lines:
            if options.servers:
                params.progress_callback = callback = self.lib.llama_progress_callback(go_on)
            self.pointer = self.lib.llama_model_load_from_file(os.fsencode(options.path), params)
        if options.servers:
            del callback  # which ctypes keeps no reference of
        if not self.pointer:
            servers.refuse(options.servers, lines)
            if servers.stopped():
                raise KeyboardInterrupt
            # These words say nothing that the sentence does not.
            words = (
                library.error_text(lines).removeprefix("error loading model: ").removesuffix("; failed to load model")
            )
            raise LoadError(options.path, words or "llama.cpp gave no reason")
        self.vocab = self.lib.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = self.lib.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = self.lib.llama_model_n_ctx_train(self.pointer)
        #: Bytes of all tensors.
        self.size: int = self.lib.llama_model_size(self.pointer)
        #: Width of the sliding window in tokens; 0 for a model without one.
        self.n_swa: int = self.lib.llama_model_n_swa(self.pointer)
        #: Whether its layers keep a state of fixed size instead of a KV cache.
        self.recurrent: bool = self.lib.llama_model_is_recurrent(self.pointer)
        #: Whether some layers do.
        self.hybrid: bool = self.lib.llama_model_is_hybrid(self.pointer)
        #: Values that one token has in the KV cache, for each layer; None if the log does not say.
        self.values_per_layer = log_lines.values_per_layer([text for _, text in lines])

    @functools.cached_property
    def header(self) -> gguf.Gguf:
        """What the file's header says, read once: a large vocabulary takes a tenth of a second."""
        return gguf.read(self.options.path)

    def close(self) -> None:
        if self.pointer:
            self.lib.llama_model_free(self.pointer)
            self.pointer = None

    @property
    def lost(self) -> bool:
        """Whether a server is gone that holds some of it, so that it is of no more use."""
        return servers.lost(self.options.servers)

    @functools.cached_property
    def chat_templates(self) -> dict[str, str]:
        """The model's chat templates by name, "default" and "tool_use"; empty for a model that completes text."""
        templates = {}
        for name, asked in (("default", None), ("tool_use", b"tool_use")):
            if text := self.lib.llama_model_chat_template(self.pointer, asked):
                templates[name] = text.decode("utf-8", "replace")
        return templates

    @property
    def bos(self) -> str:
        return self._token_text(self.lib.llama_vocab_bos(self.vocab))

    @property
    def bos_id(self) -> int | None:
        """The token that a text begins with, for models that want one."""
        return self.lib.llama_vocab_bos(self.vocab) if self.lib.llama_vocab_get_add_bos(self.vocab) else None

    @property
    def eos(self) -> str:
        return self._token_text(self.lib.llama_vocab_eos(self.vocab))

    def _token_text(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokens of ``text``; ``add_special`` adds BOS where the model wants one. Raises KvsplitError."""
        data = text.encode("utf-8", "surrogatepass")
        return with_stack(len(data), lambda: self._tokenize(data, add_special, parse_special))

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        size = len(data) + 2
        for _ in range(2):
            tokens = (ctypes.c_int32 * size)()
            n = self.lib.llama_tokenize(self.vocab, data, len(data), tokens, size, add_special, parse_special)
            if n >= 0:
                return tokens[:n]
            size = -n
        raise KvsplitError(f"llama.cpp could not split a prompt of {len(data)} bytes into tokens.")

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; nothing for a control token unless ``special``."""
        size = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            n = self.lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n
        return b""

    def kind(self, token: int) -> str:
        """ "control" for a token that plain text never becomes, "whole" for one that text becomes wherever it is spelled
        so, "text" for any other.

        Source: llama_token_attr in llama.h, and tokenizer_st_partition in llama-vocab.cpp.
        """
        attributes = self.lib.llama_vocab_get_attr(self.vocab, token)
        if attributes & (self.lib.LLAMA_TOKEN_ATTR_CONTROL | self.lib.LLAMA_TOKEN_ATTR_UNKNOWN):
            return "control"
        return "whole" if attributes & self.lib.LLAMA_TOKEN_ATTR_USER_DEFINED else "text"

    def is_token(self, text: str) -> bool:
        """Whether ``text`` is one token, and one that is not just a word."""
        tokens = self.tokenize(text, add_special=False, parse_special=True)
        return any(self.kind(token) != "text" and self.piece(token, special=True) == text.encode() for token in tokens)

    def is_end(self, token: int) -> bool:
        return self.lib.llama_vocab_is_eog(self.vocab, token)


@contextmanager
def _sending(options: LoadOptions) -> Iterator[Callable[[float, Any], bool]]:
    """What llama.cpp calls with the share that is loaded, to be told whether to go on; on a terminal with a bar, since
    weights may travel for minutes."""
    if not options.servers or options.simulate or not sys.stderr.isatty():
        yield lambda _share, _data: not servers.stopped()
        return
    size = gguf.read(options.path).size
    with progress.transfer(f"Sending layers to {' and '.join(options.servers)}", size) as advance:
        sent = 0

        def go_on(share: float, _data: Any) -> bool:
            nonlocal sent
            new = int(share * size) - sent
            sent += new
            advance(new)
            return not servers.stopped()

        yield go_on


def with_stack(n_bytes: int, call: Callable[[], _T]) -> _T:
    """``call()``, which splits a text of ``n_bytes`` into tokens, with as much stack as that takes. Raises KvsplitError."""
    if n_bytes <= _SHALLOW:
        return call()
    try:
        return deep_thread.call(call, (8 << 20) + _STACK_EACH * n_bytes // 4096 * 4096)
    except MemoryError:
        raise KvsplitError(
            f"A text of {n_bytes} bytes needs more memory than there is to be split into tokens: give a shorter one."
        ) from None


def quantize(source: Path, target: Path) -> None:
    """Write ``source`` with q8_0 weights to ``target``."""
    lib = library.load()
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q8_0
    with library.log.capture() as lines:
        status = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise KvsplitError(f"{source} could not be quantized: {library.error_text(lines)}.")
