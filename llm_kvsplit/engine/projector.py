"""Pictures and sound for a model, through libmtmd: a prompt with media becomes tokens, and media go into the cache.

libmtmd would find its marker in any text. It is given the parts of a prompt instead, so no text can stand for a picture.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import machine, media
from ..errors import KvsplitError
from ..media import Medium
from . import library
from .context import FLASH_ATTN, MEDIA, Context
from .weights import Weights, with_stack

#: A text, and whether control tokens in it are meant; or a medium.
Part = tuple[str, bool] | Medium
#: Where no ffmpeg can be: libmtmd would start one from PATH on every file that is no picture for it.
_NO_FFMPEG = b"/dev/null"
_MISFIT = re.compile(r"mismatch between text model \(n_embd = (\d+)\) and mmproj \(n_embd = (\d+)\)")


@dataclass(frozen=True)
class ProjectorOptions:
    """What must be the same for a loaded projector to be used again."""

    path: Path
    use_gpu: bool
    n_threads: int | None = None
    flash_attn: bool | None = None


class ProjectorError(KvsplitError):
    """libmtmd cannot use the file for this model."""


@dataclass(frozen=True)
class _Stretch:
    """What libmtmd makes of a picture, a tile of one, or some seconds of sound."""

    #: What stands for it in a list of tokens.
    numbers: list[int]
    positions: int
    chunk: int


class Projector:
    """libmtmd's context for one model; ``close()`` frees it. Raises KvsplitError where there is no libmtmd, and
    ProjectorError when the file cannot be used."""

    def __init__(self, weights: Weights, options: ProjectorOptions) -> None:
        self.pointer: int | None = None
        self.weights, self.options, self.lib = weights, options, library.media()
        self.takes = media.projector_takes(options.path)
        status = options.path.stat()
        self._identity = f"{options.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        self._chunks: int | None = None
        self._stretches: list[_Stretch] = []
        params = self.lib.mtmd_context_params_default()
        params.use_gpu, params.print_timings = options.use_gpu, False
        params.n_threads = options.n_threads or machine.physical_cores()
        params.flash_attn_type = FLASH_ATTN[options.flash_attn]
        with library.log.capture() as lines:
            self.pointer = self.lib.mtmd_init_from_file(bytes(options.path), weights.pointer, params)
        if not self.pointer:
            raise ProjectorError(_refusal(options.path, lines))

    def close(self) -> None:
        self._free_chunks()
        if self.pointer:
            self.lib.mtmd_free(self.pointer)
            self.pointer = None

    def _free_chunks(self) -> None:
        if self._chunks:
            self.lib.mtmd_input_chunks_free(self._chunks)
        self._chunks, self._stretches = None, []

    def tokens(self, parts: Sequence[Part]) -> list[int]:
        """The tokens of a prompt, with numbers from MEDIA on for its media, which are kept until the next call.

        Raises KvsplitError for a medium that cannot be read.
        """
        self._free_chunks()
        for medium in parts:
            if isinstance(medium, Medium):
                media.check(medium, self.takes)
        bitmaps: dict[Medium, int] = {}
        try:
            for part in parts:
                if isinstance(part, Medium) and part not in bitmaps:
                    bitmaps[part] = self._bitmap(part)
            self._split(parts, bitmaps)
        finally:
            for bitmap in bitmaps.values():
                self.lib.mtmd_bitmap_free(bitmap)
        tokens = list(self._numbers())
        if any(token < 0 for token in tokens):  # llama.cpp would abort
            raise ProjectorError(
                f"{self.options.path} is another model's projector: this model lacks the tokens that it puts around a "
                "picture."
            )
        if tokens and tokens[-1] >= MEDIA:
            raise KvsplitError("The prompt ends with a picture or sound, and no text comes after it: add a question.")
        return tokens

    def _bitmap(self, medium: Medium) -> int:
        options = self.lib.mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = _NO_FFMPEG
        data = ctypes.cast(ctypes.c_char_p(medium.content), ctypes.POINTER(ctypes.c_uint8))
        with library.log.capture():
            made = self.lib.mtmd_helper_bitmap_init_from_buf(self.pointer, data, len(medium.content), False, options)
        if not made.bitmap:
            raise media.damaged(medium)
        # libmtmd aborts on a single sample.
        if media.kind(medium.content) == media.AUDIO and self.lib.mtmd_bitmap_get_nx(made.bitmap) < 2:
            self.lib.mtmd_bitmap_free(made.bitmap)
            raise KvsplitError(f"{medium.name} holds no sound: give a longer one.")
        return made.bitmap

    def _split(self, parts: Sequence[Part], bitmaps: dict[Medium, int]) -> None:
        """Have libmtmd make its chunks of ``parts``."""
        lib, texts, given = self.lib, [], []
        for part in parts:
            if isinstance(part, Medium):
                given.append(lib.mtmd_input_part(None, bitmaps[part]))
            else:
                data = part[0].encode("utf-8", "surrogatepass")
                texts.append(lib.mtmd_input_text(data, len(data), False, part[1]))
                given.append(lib.mtmd_input_part(ctypes.pointer(texts[-1]), None))
        pointers = (ctypes.POINTER(lib.mtmd_input_part) * len(given))(*map(ctypes.pointer, given))
        self._chunks = lib.mtmd_input_chunks_init()
        longest = max((text.text_len for text in texts), default=0)
        with library.log.capture() as lines:
            status = with_stack(
                longest,
                lambda: lib.mtmd_tokenize_from_parts(self.pointer, self._chunks, pointers, len(given), False),
            )
        if status != 0:
            raise KvsplitError(f"The attachments could not be made ready for the model: {_words(lines)}.")

    def _numbers(self) -> Iterator[int]:
        lib = self.lib
        for index in range(lib.mtmd_input_chunks_size(self._chunks)):
            chunk = lib.mtmd_input_chunks_get(self._chunks, index)
            if lib.mtmd_input_chunk_get_type(chunk) == lib.MTMD_INPUT_CHUNK_TYPE_TEXT:
                n_tokens = ctypes.c_uint64()
                tokens = lib.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n_tokens))
                yield from tokens[: n_tokens.value]
            else:
                stretch = self._stretch(chunk)
                self._stretches.append(stretch)
                yield from stretch.numbers

    def _stretch(self, chunk: int) -> _Stretch:
        # libmtmd's id is the SHA-256 of the file, the same for all tiles of a picture.
        n = self.lib.mtmd_input_chunk_get_n_tokens(chunk)
        positions = self.lib.mtmd_input_chunk_get_n_pos(chunk)
        file = self.lib.mtmd_input_chunk_get_id(chunk).decode()
        key = f"{self._identity} {file} {len(self._stretches)} {n} {positions}"
        drawn = struct.unpack(f"<{n}I", hashlib.shake_256(key.encode(errors="surrogateescape")).digest(4 * n))
        return _Stretch([number | MEDIA for number in drawn], positions, chunk)

    def evaluate(self, context: Context, tokens: list[int], stopped: Callable[[], bool]) -> None:
        """Append what comes after the context's own tokens, which ``tokens`` begin with, media and all.

        Raises KvsplitError.
        """
        for start, stretch in self._placed(tokens):
            if start < len(context.tokens):
                continue
            context.evaluate(tokens[len(context.tokens) : start], stopped)
            if stopped() or len(context.tokens) != start:
                return
            self._append(context, stretch)
        context.evaluate(tokens[len(context.tokens) :], stopped)

    def _placed(self, tokens: list[int]) -> Iterator[tuple[int, _Stretch]]:
        """Each stretch and where it begins: the text around it may have come to be other tokens (``spelling.py``)."""
        at = 0
        for stretch in self._stretches:
            at = tokens.index(stretch.numbers[0], at)
            yield at, stretch
            at += len(stretch.numbers)

    def try_out(self) -> None:
        """Read a picture of one colour and a second of silence, as far as it takes them. Raises KvsplitError; with a file
        that libmtmd does not expect, it may end the process."""
        samples = [Medium(f"a test of {media.NAMES[each]}", media.SAMPLES[each]) for each in self.takes]
        self.tokens([part for sample in samples for part in (sample, ("a", False))])
        for stretch in self._stretches:
            self._encode(stretch)

    def _encode(self, stretch: _Stretch) -> None:
        with library.log.capture() as lines:
            if self.lib.mtmd_encode_chunk(self.pointer, stretch.chunk) != 0:
                raise KvsplitError(f"libmtmd could not read an attachment: {_words(lines)}.")

    def _append(self, context: Context, stretch: _Stretch) -> None:
        lib, n_batch = self.lib, context.lib.llama_n_batch(context.pointer)
        if len(stretch.numbers) > n_batch and lib.mtmd_decode_use_non_causal(self.pointer, stretch.chunk):
            raise KvsplitError(
                f"A picture takes {len(stretch.numbers)} tokens, and this model reads at most {n_batch} of one at once: "
                "make it smaller."
            )
        self._encode(stretch)
        vectors, end = lib.mtmd_get_output_embd(self.pointer), ctypes.c_int32()

        def decode(position: int) -> bool:
            status = lib.mtmd_helper_decode_image_chunk(
                self.pointer,
                context.pointer,
                stretch.chunk,
                vectors,
                position,
                0,
                n_batch,
                ctypes.byref(end),
                None,
                None,
            )
            return status == 0

        with library.log.capture() as lines:
            appended = context.evaluate_media(stretch.numbers, stretch.positions, decode)
        if not appended:
            raise KvsplitError(
                f"llama.cpp could not evaluate an attachment of {len(stretch.numbers)} tokens after {len(context.tokens)} "
                f"in a context of {context.n_ctx}: {_words(lines)}."
            )


def _refusal(path: Path, lines: list[tuple[int, str]]) -> str:
    words = _words(lines)
    if misfit := _MISFIT.search(words):
        return (
            f"{path} is another model's projector: it makes vectors of {misfit[2]} values, and this model takes "
            f"{misfit[1]}."
        )
    return f"{path} cannot be used as this model's projector: {words}."


def _words(lines: list[tuple[int, str]]) -> str:
    words = re.sub(r"\s+", " ", library.error_text(lines)).removeprefix("error: ").rstrip(". ")
    return words or "libmtmd gave no reason"
