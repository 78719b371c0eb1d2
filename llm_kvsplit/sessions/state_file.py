"""One stored state: a file that is either whole and checked, or not used.

Layout, little-endian:

    magic (8) | length of the head (8) | head: JSON, newline, tokens (4 each), block checksums (16 each), checksum (16)
    | zeros to a multiple of 4096 | llama.cpp's sequence state

The checksum at the head's end covers all before it; the block checksums cover the state. llama.cpp trusts what it is
given, so it is given nothing that was not checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"KVSPLIT1"
_PREFIX = struct.Struct("<8sQ")
_CHECKSUM = 16
_BLOCK = 4 << 20
_PAGE = 4096
#: A head beyond this is damage: a million tokens and their checksums are far below it.
_MAX_HEAD = 256 << 20


@dataclass(frozen=True)
class Key:
    """Everything that must be equal for a stored state to mean the same."""

    #: SHA-256 of the model's files.
    model: str
    k_type: str
    v_type: str
    #: Whether V lies transposed in the cache, which llama.cpp does without flash attention.
    flash_attn: bool | None
    #: Rotation of K and V is upstream's default and turned off by an environment variable.
    rotation: bool
    #: Fingerprint of the libraries and the CPU (``probe.key``), since both decide the last bits.
    library: str
    n_gpu_layers: int
    #: llama.cpp's own versions of a state's layout, a sequence's and a whole context's: see ``builds/interface.py``.
    state_format: int
    session_format: int

    def folder_name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Session:
    """The checked head of one file."""

    path: Path
    #: The head as it stands in the file: what tells this state from one that was stored in its place.
    head: bytes
    #: The fields of the ``Key`` it was stored under.
    key: dict[str, Any]
    conversation: str
    model: str
    created: float
    tokens: np.ndarray
    #: Where media lie among them: start, cells and positions of each stretch (``engine.context.Span``).
    media: list[tuple[int, int, int]]
    #: Where the state begins in the file, and its size in bytes.
    offset: int
    size: int
    checksums: bytes


class Damaged(Exception):
    """The file is not what was written."""


def read_head(path: Path, key: Key | None = None) -> Session:
    """Raises Damaged, or OSError; nothing that the head says is believed before its checksum holds."""
    import numpy as np
    from xxhash import xxh3_128_digest

    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise Damaged("it is cut short")
        magic, length = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise Damaged("it is not a session")
        if not _CHECKSUM < length <= _MAX_HEAD:
            raise Damaged("its head has an impossible length")
        head = file.read(length)
        if len(head) < length:
            raise Damaged("it is cut short")
        status = os.fstat(file.fileno())
    body, checksum = head[:-_CHECKSUM], head[-_CHECKSUM:]
    if xxh3_128_digest(prefix + body) != checksum:
        raise Damaged("its head does not match its checksum")
    text, _, rest = body.partition(b"\n")
    fields = json.loads(text)
    n_tokens, n_blocks = fields["n_tokens"], -(-fields["size"] // _BLOCK)
    offset = _state_offset(length)
    if len(rest) != 4 * n_tokens + _CHECKSUM * n_blocks or status.st_size != offset + fields["size"]:
        raise Damaged("its length is not what its head says")
    if key is not None and fields["key"] != asdict(key):
        raise Damaged("it was made for something else than its folder says")
    return Session(
        path=path,
        head=prefix + head,
        key=fields["key"],
        conversation=fields["conversation"],
        model=fields["model_name"],
        created=fields["created"],
        tokens=np.frombuffer(rest, np.uint32, n_tokens),
        media=[(int(start), int(length), int(positions)) for start, length, positions in fields.get("media", ())],
        offset=offset,
        size=fields["size"],
        checksums=rest[4 * n_tokens :],
    )


def read_state(session: Session) -> np.ndarray:
    """The state's bytes, uint8, each block checked as it comes from the disk.

    Read rather than mapped: a mapping of a file on a failing disk ends the process. Raises Damaged, or OSError.
    """
    import numpy as np
    from xxhash import xxh3_128_digest

    state = np.empty(session.size, np.uint8)
    view = state.data
    with session.path.open("rb", buffering=0) as file:
        # Not the inode's number: file systems give it to the next file.
        if file.read(len(session.head)) != session.head:
            raise FileNotFoundError(f"{session.path} was replaced meanwhile")
        file.seek(session.offset)
        for i, start in enumerate(range(0, session.size, _BLOCK)):
            block = view[start : start + _BLOCK]
            if file.readinto(block) != len(block):
                raise Damaged("it is cut short")
            if xxh3_128_digest(block) != session.checksums[i * _CHECKSUM : (i + 1) * _CHECKSUM]:
                raise Damaged(f"block {i} does not match its checksum")
    return state


def head_bytes(
    key: Key,
    model_name: str,
    conversation: str,
    tokens: list[int],
    state: memoryview,
    media: Sequence[tuple[int, int, int]] = (),
) -> bytes:
    """All that stands before the state in a file."""
    import numpy as np
    from xxhash import xxh3_128_digest

    fields = {
        "key": asdict(key),
        "model_name": model_name,
        "conversation": conversation,
        "created": time.time(),
        "n_tokens": len(tokens),
        "size": len(state),
        "media": list(media),
    }
    body = json.dumps(fields).encode() + b"\n" + np.array(tokens, np.uint32).tobytes()
    body += b"".join(xxh3_128_digest(state[i : i + _BLOCK]) for i in range(0, len(state), _BLOCK))
    prefix = _PREFIX.pack(MAGIC, len(body) + _CHECKSUM)
    head = prefix + body + xxh3_128_digest(prefix + body)
    return head.ljust(_state_offset(len(body) + _CHECKSUM), b"\0")


def _state_offset(length: int) -> int:
    return -(-(_PREFIX.size + length) // _PAGE) * _PAGE


def write(file: Any, head: bytes, state: memoryview) -> None:
    """Write and sync both parts to an unbuffered file."""
    for part in (memoryview(head), state):
        while len(part):
            part = part[file.write(part) :]
    os.fsync(file.fileno())
