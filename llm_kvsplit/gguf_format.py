"""GGUF, the file format: keys and values, and where the tensors end. What they mean is in ``gguf``.

The ``gguf`` package can read it too, but builds numpy views of every token: seconds to minutes, and up to a
gigabyte of memory, for a large vocabulary. Here arrays of strings are stepped over. Layout: ggml/include/gguf.h.
"""

import math
import os
import stat
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from . import foreign
from .errors import KvsplitError

MAGIC = b"GGUF"

#: GGUF value type -> struct format of one value. 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

#: ggml type -> name, values in a block, bytes of a block (ggml.c: type_traits).
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

#: general.file_type -> name, as quantizing programs take it (llama.h: enum llama_ftype).
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
#: This bit says that the type was guessed from the tensors (llama.h: LLAMA_FTYPE_GUESSED).
FILE_TYPE_GUESSED = 1024

#: Names of tensors are shorter (ggml.h: GGML_MAX_NAME).
_MAX_NAME = 64

# No honest file comes near these; they keep a damaged one from costing memory or minutes.
MAX_HEADER = 1 << 28
MAX_ENTRIES = 1 << 18
MAX_ARRAY = 1 << 24
MAX_KEPT_ARRAY = 1 << 12


@dataclass(frozen=True)
class GgufFile:
    meta: dict[str, object]
    #: Bytes of weights in each ggml type.
    weights: dict[str, int]
    n_tensors: int
    size: int


def read_file(path: Path) -> GgufFile:
    """One file, whole or a part of a split model.

    Raises KvsplitError: missing, no regular file, empty, not GGUF, a version or byte order that llama.cpp does not read,
    damaged, cut short (with the number of bytes missing).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            # Opening a pipe would wait until something is written to it.
            raise KvsplitError(f"{path} is a pipe or a device: give the path of a GGUF file.")
        size = status.st_size
        with path.open("rb") as file:
            header = _Header(file)
            try:
                return _parse(path, header, size)
            except EOFError:
                raise KvsplitError(
                    f"{path} is cut short or damaged: its header does not end within its {size} bytes; "
                    "download it again."
                ) from None
    except FileNotFoundError:
        raise KvsplitError(f"{path} does not exist: check the path, or fetch it with 'llm kvsplit download'.") from None
    except OSError as error:
        raise KvsplitError(
            f"{path} cannot be read ({error.strerror or error}): give the path of a GGUF file."
        ) from error


def _parse(path: Path, header: "_Header", size: int) -> GgufFile:
    if not size:
        raise KvsplitError(f"{path} is empty: download it again.")
    first_bytes = header.peek(foreign.BYTES)
    if not first_bytes.startswith(MAGIC):
        raise KvsplitError(f"{path} {not_gguf(first_bytes)}.")
    header.skip(len(MAGIC))
    _check_version(path, header.number("I"))
    n_tensors, n_values = header.number("Q"), header.number("Q")
    if max(n_tensors, n_values) > MAX_ENTRIES:
        raise damaged(path, f"it claims {n_tensors} tensors and {n_values} values")

    meta: dict[str, object] = {}
    for _ in range(n_values):
        key = header.string()
        if key in meta:
            raise damaged(path, f"it states {key[:64]!r} twice")
        meta[key] = _value(path, header, key)
    tensors: dict[str, _Tensor] = {}
    for _ in range(n_tensors):
        name = header.string()
        if name in tensors:
            raise damaged(path, f"it has two tensors {name[:64]!r}")
        tensors[name] = _tensor(path, header, name)

    alignment = count(path, meta, "general.alignment", 32)
    if alignment == 0 or alignment & (alignment - 1):
        raise damaged(path, f"its alignment is {alignment}")
    n_bytes = _place_all(path, tensors, alignment)
    end = _padded(header.tell(), alignment) + n_bytes if tensors else 0
    if end > size:
        raise KvsplitError(f"{path} is cut short: {end - size} of its {end} bytes are missing; download it again.")
    weights: Counter[str] = Counter()
    for tensor in tensors.values():
        weights[tensor.type_name] += tensor.n_bytes
    return GgufFile(meta, weights, len(tensors), size)


def _check_version(path: Path, version: int) -> None:
    if version & 0xFFFF == 0:
        raise KvsplitError(f"{path} has the byte order of another machine: convert it with gguf-convert-endian first.")
    if version not in (2, 3):
        raise KvsplitError(f"{path} is GGUF version {version}, but versions 2 and 3 can be read: convert it again.")


@dataclass(frozen=True)
class _Tensor:
    type_name: str
    #: None for a type that is newer than TENSOR_TYPES.
    known_bytes: int | None
    #: Where it begins, in bytes after the header.
    offset: int

    @property
    def n_bytes(self) -> int:
        """A type that is not known counts as nothing: llama.cpp will say if it cannot read it."""
        return self.known_bytes or 0


def _tensor(path: Path, header: "_Header", name: str) -> _Tensor:
    if len(name.encode()) >= _MAX_NAME:
        raise damaged(path, f"the name of tensor {name[:64]!r} is too long")
    n_dims = header.number("I")
    if n_dims > 4:
        raise damaged(path, f"tensor {name[:64]!r} has {n_dims} dimensions")
    shape = [header.number("Q") for _ in range(n_dims)]
    type_id, offset = header.number("I"), header.number("Q")
    type_name, block, block_bytes = TENSOR_TYPES.get(type_id, (f"type {type_id}", 1, 0))
    n_values = math.prod(shape)
    if n_values >= 1 << 63 or offset >= 1 << 63 or (shape and shape[0] % block):
        raise damaged(path, f"tensor {name[:64]!r} has an impossible size")
    return _Tensor(type_name, n_values // block * block_bytes if block_bytes else None, offset)


def _place_all(path: Path, tensors: dict[str, _Tensor], alignment: int) -> int:
    """Bytes that all tensors take after the header. Raises KvsplitError where one does not stand at its place."""
    end = 0
    # Tensors follow each other without gaps. Where one of unknown size ends is not known.
    expected: int | None = 0
    for name, tensor in tensors.items():
        if expected is not None and tensor.offset != expected:
            raise damaged(path, f"tensor {name[:64]!r} stands at {tensor.offset} where {expected} is its place")
        end = max(end, tensor.offset + tensor.n_bytes)
        if expected is not None:
            expected = None if tensor.known_bytes is None else expected + _padded(tensor.known_bytes, alignment)
    return end


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _value(path: Path, header: "_Header", key: str) -> object:
    """The next value; None for an array too long to be about the model's shape."""
    kind = header.number("I")
    if kind == STRING:
        return header.string()
    if kind in SCALARS:
        return header.number(SCALARS[kind])
    if kind != ARRAY:
        raise damaged(path, f"{key[:64]!r} has the unknown type {kind}")

    kind, length = header.number("I"), header.number("Q")
    if length > MAX_ARRAY or (kind != STRING and kind not in SCALARS):
        raise damaged(path, f"{key[:64]!r} is an array of {length} values of type {kind}")
    if kind == STRING:
        header.skip_strings(length)
        return None
    layout = struct.Struct(f"<{length}{SCALARS[kind]}")
    if length > MAX_KEPT_ARRAY:
        header.skip(layout.size)
        return None
    return list(layout.unpack(header.take(layout.size)))


def count(path: Path, meta: dict, key: str, default: int = 0) -> int:
    value = meta.get(key, default)
    if isinstance(value, list) and value:  # a number for each layer where one would do
        value = value[0]
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise damaged(path, f"{key} is not a count")
    return int(value)


def not_gguf(start: bytes) -> str:
    """What a file with these first bytes is, and the next step: a sentence after the file's name, without the stop."""
    known = foreign.describe(start)
    if known is None:
        return f"is not a GGUF file (it begins with {start[:4]!r}): give a model in GGUF format"
    what, step = known
    return f"is not a GGUF file but {what}: {step}"


def damaged(path: Path, what: str) -> KvsplitError:
    return KvsplitError(f"{path} is damaged or not what llama.cpp writes ({what}): download or convert it again.")


class _Header:
    """Walks a header front to back with a small buffer; EOFError where the file ends first.

    Not mmap: a file that another program cuts short meanwhile would kill the process with SIGBUS.
    """

    CHUNK = 1 << 20
    LENGTH = struct.Struct("<Q")

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = min(os.fstat(file.fileno()).st_size, MAX_HEADER)
        self.buffer = b""
        self.at = 0

    def tell(self) -> int:
        return self.file.tell() - len(self.buffer) + self.at

    def _ensure(self, n: int) -> None:
        """Have the next ``n`` bytes in the buffer."""
        if self.at + n > len(self.buffer):
            if self.tell() + n > self.size:
                raise EOFError
            self.file.seek(self.tell())
            self.buffer, self.at = self.file.read(max(n, self.CHUNK)), 0
            if len(self.buffer) < n:
                raise EOFError

    def peek(self, n: int) -> bytes:
        """The next ``n`` bytes, or as many as there are; they stay to be taken."""
        self._ensure(min(n, self.size - self.tell()))
        return self.buffer[self.at : self.at + n]

    def take(self, n: int) -> bytes:
        self._ensure(n)
        self.at += n
        return self.buffer[self.at - n : self.at]

    def skip(self, n: int) -> None:
        if self.tell() + n > self.size:
            raise EOFError
        self.at += n
        if self.at > len(self.buffer):
            self.file.seek(self.tell())
            self.buffer, self.at = b"", 0

    def number(self, fmt: str) -> Any:
        return struct.unpack("<" + fmt, self.take(struct.calcsize(fmt)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        """Step over ``count`` strings: hundreds of thousands in a vocabulary, so the loop is a bare one."""
        unpack = self.LENGTH.unpack_from
        while count:
            self._ensure(8)
            buffer, at = self.buffer, self.at
            last = len(buffer) - 8
            while count and at <= last:
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            self.skip(at - self.at)
