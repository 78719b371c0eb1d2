"""What a file is that begins like no GGUF file, and what to do about it.

People meet them where a model should be: what a repository keeps instead of the file, what a server answers instead of
it, and models in other formats. Nothing of such a file is ever loaded: a pickle can run code.
"""

from __future__ import annotations

import re
import struct

#: This many bytes of a file's beginning are enough to tell.
BYTES = 1024

#: First bytes -> what begins with them, and the next step. The first that fits counts.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file of another program", "give a model in GGUF format"),
    (b"MZqFpD", "a llamafile, a program with a model in it", "download the model's own GGUF file"),
    # Magic numbers of llama.cpp before GGUF, as bytes of a little-endian file (convert_llama_ggml_to_gguf.py and
    # llama.h: LLAMA_FILE_MAGIC_GGLA, _GGSN and _GGSQ).
    (b"fmgg", "an old ggml file (GGMF)", "download a GGUF of the model, since llama.cpp no longer reads it"),
    (b"tjgg", "an old ggml file (GGJT)", "download a GGUF of the model, since llama.cpp no longer reads it"),
    (b"algg", "an old ggml adapter (GGLA)", "give a model in GGUF format"),
    (b"nsgg", "a saved session of llama.cpp", "give the model that it was made with"),
    (b"qsgg", "a saved sequence of llama.cpp", "give the model that it was made with"),
)  # fmt: skip

_CONVERT = "download a GGUF of the model, or convert its folder with llama.cpp's convert_hf_to_gguf.py"


def describe(start: bytes) -> tuple[str, str] | None:
    """What a file with these first ``BYTES`` is, as words after "but", and the next step; None for anything unknown."""
    for magic, what, step in _STARTS:
        if start.startswith(magic):
            return what, step
    for describe_as in (_pointer, _text, _ggml, _checkpoint, _zeros):
        if known := describe_as(start):
            return known
    return None


def _pointer(start: bytes) -> tuple[str, str] | None:
    # The first line is always the version, after the others' alphabetical order (git-lfs: docs/spec.md).
    if not re.match(rb"version https?://(git-lfs|hawser)\.github\.com/spec/v\S+\n", start):
        return None
    size = re.search(rb"^size (\d+)$", start, re.M)
    of = f" of {int(size[1])} bytes" if size else ""
    return (
        f"a Git LFS pointer, which stands for the file{of}",
        "run 'git lfs pull' beside it, or download the file itself",
    )


def _text(start: bytes) -> tuple[str, str] | None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page", "download the file itself, not the page about it"
    if text.startswith(b"<?xml"):
        return "an XML text, such as a server's error", "check the address and download the file again"
    if text.startswith((b'{"', b"{\n", b"{}")):
        return "a JSON text, such as a server's error or a model's configuration", "give the model's GGUF file"
    return None


def _ggml(start: bytes) -> tuple[str, str] | None:
    if not start.startswith(b"lmgg"):
        return None
    # whisper.cpp kept the format; its vocabularies are the only ones of these sizes (whisper.cpp: whisper_model_load).
    n_vocab = struct.unpack_from("<i", start.ljust(8, b"\0"), 4)[0]
    if n_vocab in (51864, 51865, 51866):
        return "an old ggml file (whisper), which turns speech into text", "give a language model in GGUF format"
    return "an old ggml file", "download a GGUF of the model, since llama.cpp no longer reads it"


def _checkpoint(start: bytes) -> tuple[str, str] | None:
    if start.startswith(b"PK\3\4"):
        inside = "a PyTorch checkpoint" if b"data.pkl" in start or b"/version" in start else "a zip archive"
        return inside, _CONVERT if inside != "a zip archive" else "unpack it first"
    if len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return "a Python pickle, such as a PyTorch checkpoint", _CONVERT
    # The length of a JSON header, and the header (safetensors: README, "Format": at most 100 MB).
    if len(start) > 9 and int.from_bytes(start[:8], "little") < 100_000_000 and start[8:9] == b"{":
        return "a safetensors file", _CONVERT
    return None


def _zeros(start: bytes) -> tuple[str, str] | None:
    if len(start) >= 64 and not any(start):
        return "zeros, as an interrupted download leaves them", "download it again"
    return None
